"""Tests of the kernels on a CUDA GPU: what no CPU and no interpreter can show. Without one, each is skipped and says so.

    LAUNCHER_GPU_DRY_RUN=cpu python -m pytest tests/kernels/gpu

runs the bodies that do not depend on the device on a CPU, with small shapes, and skips the others by name. That finds mistakes in
these tests; it says nothing about a GPU.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gpu_cases import DRY_RUN

HERE = Path(__file__).parent
ORDER = (
    "cross_entropy",
    "linear_cross_entropy",
    "layouts",
    "memory",
    "compile",
    "bad_targets",
    "distributed",
    "training",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The most basic tests first: what comes after a broken kernel tells nothing more."""
    places = [i for i, item in enumerate(items) if item.path.parent == HERE]
    ours = sorted((items[i] for i in places), key=lambda item: ORDER.index(item.path.stem[len("test_") : -len("_gpu")]))
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest.fixture(autouse=True)
def needs_a_gpu() -> Iterator[None]:
    if not DRY_RUN and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.set_float32_matmul_precision("highest")  # no TF32: fp32 is held to the errors of fp32
    yield
    if not DRY_RUN:
        torch.cuda.empty_cache()


@pytest.fixture
def device() -> torch.device:
    """Where a test works: the GPU, or in a dry run the CPU."""
    return torch.device("cpu" if DRY_RUN else "cuda")


@pytest.fixture
def gpu() -> torch.device:
    """For tests of what only CUDA has."""
    if DRY_RUN:
        pytest.skip("needs a CUDA GPU: not part of the dry run on a CPU")
    return torch.device("cuda")
