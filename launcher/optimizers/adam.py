"""Adam (Kingma and Ba, arXiv:1412.6980), PyTorch's own. Its weight decay is an L2 penalty inside the gradient; adamw's is not."""

from math import prod
from typing import Annotated, Any

from pydantic import Field

from launcher.adam import AdamOptions

ELEMENTWISE = True


class Config(AdamOptions):
    name: str = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty, which goes through the moments; norms and biases are left out."""


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    import torch

    return torch.optim.Adam(param_groups, **config.as_arguments(), fused=True)


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """Two moments of the parameter's own type."""
    return 2 * prod(shape) * item_bytes
