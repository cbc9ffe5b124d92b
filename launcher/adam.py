"""What several optimizers share: the options of AdamW, and how bitsandbytes' optimizers are made.

bitsandbytes 0.50 has kernels for a CPU, too: 32-bit and 8-bit states are computed there in PyTorch. Paging is CUDA's.
"""

from math import ceil
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from launcher.errors import EnvironmentProblem
from launcher.optimizer_options import OptimizerOptions

SMALLEST_8BIT = 4096  # bitsandbytes keeps the state of a tensor with fewer elements in fp32
BLOCK = 256  # elements that share a scale


class AdamOptions(OptimizerOptions):
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled decay a step, times the learning rate; norms and biases are left out."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""

    def as_arguments(self) -> dict[str, Any]:
        """For a constructor that follows PyTorch's; weight decay stands in the groups."""
        return {"lr": self.learning_rate, "betas": self.betas, "eps": self.eps}


def bitsandbytes(name: str) -> ModuleType:
    """bitsandbytes' optimizers, or what to do without them; `name` is the recipe's optimizer."""
    try:
        import bitsandbytes.optim
    except ImportError as error:
        raise EnvironmentProblem(
            f"optimizer.name {name} needs bitsandbytes, which is not installed",
            fix="pip install bitsandbytes, or use optimizer.name=adamw",
        ) from error
    optim: ModuleType = bitsandbytes.optim
    return optim


def stay_paged(optimizer: Any) -> Any:
    """bitsandbytes loads a state into plain GPU memory; this puts it back into the pages that a new one would get."""
    load = optimizer.load_state_dict

    def load_state_dict(state_dict: dict[str, Any], *args: Any, **options: Any) -> None:
        load(state_dict, *args, **options)
        for parameter, states in optimizer.state.items():
            for key in ("state1", "state2"):
                pages = optimizer.get_state_buffer(parameter, dtype=states[key].dtype)
                states[key] = pages.copy_(states[key])

    optimizer.load_state_dict = load_state_dict
    return optimizer


def state_bytes_8bit(elements: int) -> int:
    """Both moments of a tensor with so many elements: a byte each and a fp32 scale a block, or fp32 for a small one."""
    return 8 * elements if elements < SMALLEST_8BIT else 2 * (elements + 4 * ceil(elements / BLOCK))
