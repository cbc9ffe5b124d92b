"""AdamW (Loshchilov and Hutter, arXiv:1711.05101), PyTorch's own, fused into one kernel a step."""

from math import prod
from typing import Any

from launcher.adam import AdamOptions

ELEMENTWISE = True


class Config(AdamOptions):
    name: str = "adamw"


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    import torch

    return torch.optim.AdamW(param_groups, **config.as_arguments(), fused=True)


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """Two moments of the parameter's own type."""
    return 2 * prod(shape) * item_bytes
