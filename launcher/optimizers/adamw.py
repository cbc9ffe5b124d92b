"""AdamW (Loshchilov and Hutter, arXiv:1711.05101), PyTorch's own, fused into one kernel a step."""

from typing import Annotated, Any

from pydantic import Field

from launcher.schema import Section


class Config(Section):
    name: str = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled decay a step, times the learning rate; norms and biases are left out."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    import torch

    return torch.optim.AdamW(param_groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
