"""Which code works on rows of logits: the Triton kernels on a GPU, PyTorch elsewhere. Both modules have the same functions:

    softmax_stats(z, rows, start) -> stats             logits are left as they are
    gradient_(z, stats, rows, start, out)              d loss / d logits, given the stats of whole rows
    stats_and_gradient_(z, rows, out) -> stats         both, in one pass where that is possible

`z` is (N, columns) with unit stride in the last dimension; `start` is the class of its first column. The gradient overwrites `z`
unless `out`, of the same shape and dtype, is given.
"""

import importlib.util
from functools import cache
from types import ModuleType

import torch

FORCED: str | None = None  # "triton" or "torch": for tests, which run the Triton kernels in Triton's interpreter


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def backend(device: torch.device) -> ModuleType:
    name = FORCED or ("triton" if device.type == "cuda" and _has_triton() else "torch")
    return importlib.import_module(f"launcher_kernels.rows_{name}")
