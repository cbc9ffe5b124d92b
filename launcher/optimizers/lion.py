"""Lion, the sign of an interpolated momentum (Chen et al., arXiv:2302.06675), from bitsandbytes; on a CPU, too.

Each element moves by the learning rate, so it takes one 3 to 10 times smaller than AdamW's, and a decay as much larger.
"""

from math import prod
from typing import Annotated, Any

from pydantic import Field

from launcher import adam
from launcher.optimizer_options import OptimizerOptions

ELEMENTWISE = True


class Config(OptimizerOptions):
    name: str = "lion"
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled decay a step, times the learning rate; norms and biases are left out."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    """Share of the momentum in the update, and decay rate of the momentum."""


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    return adam.bitsandbytes(config.name).Lion(param_groups, lr=config.learning_rate, betas=config.betas)


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """One fp32 momentum."""
    return 4 * prod(shape)
