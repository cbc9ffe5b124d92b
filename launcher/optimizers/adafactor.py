"""Adafactor: the second moment of a matrix as its rows' and columns' means (Shazeer and Stern, arXiv:1804.04235).

From transformers. PyTorch's own cannot do without scaling each step by the size of the weight, which starves LoRA's B (it starts
at zero), and caps the learning rate at 1 / sqrt(step); here the learning rate is the schedule's.
"""

from math import prod
from typing import Annotated, Any

from pydantic import Field

from launcher.optimizer_options import OptimizerOptions

ELEMENTWISE = False  # rows and columns of whole matrices, and root mean squares of whole tensors


class Config(OptimizerOptions):
    name: str = "adafactor"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled decay a step, times the learning rate; norms and biases are left out."""
    beta1: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay rate of a first moment; null keeps none."""
    decay_rate: Annotated[float, Field(ge=-1, lt=0)] = -0.8
    """The second moment's decay rate after t steps is 1 - t ** decay_rate."""
    clip_threshold: Annotated[float, Field(gt=0)] = 1.0
    """Largest root mean square of an update before the learning rate."""
    scale_parameter: bool = False
    """Multiply the learning rate by the root mean square of the weight (1e-3 at least), as in the paper."""


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    from transformers.optimization import Adafactor

    return Adafactor(
        param_groups,
        lr=config.learning_rate,
        beta1=config.beta1,
        decay_rate=config.decay_rate,
        clip_threshold=config.clip_threshold,
        scale_parameter=config.scale_parameter,
        relative_step=False,
    )


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """fp32: a number a row and a number a column, all numbers of a vector, and the first moment if there is one."""
    rows_and_columns = prod(shape[:-1]) + prod(shape[:-2] + shape[-1:])
    second = rows_and_columns if len(shape) >= 2 else prod(shape)
    return 4 * (second + (prod(shape) if config.beta1 is not None else 0))
