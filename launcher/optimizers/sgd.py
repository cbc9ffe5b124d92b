"""Stochastic gradient descent, with momentum if asked for."""

from math import prod
from typing import Annotated, Any

from pydantic import Field, model_validator

from launcher.optimizer_options import OptimizerOptions

ELEMENTWISE = True


class Config(OptimizerOptions):
    name: str = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum (needs momentum above 0)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty; norms and biases are left out."""

    @model_validator(mode="after")
    def _nesterov_looks_along_momentum(self) -> "Config":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")
        return self


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    import torch

    # On a CPU the fused kernel of torch 2.13 loses the momentum of bf16 parameters.
    fused = all(parameter.dtype == torch.float32 for group in param_groups for parameter in group["params"])
    return torch.optim.SGD(
        param_groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=fused or None,
    )


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """The momentum, of the parameter's own type, if there is one."""
    return prod(shape) * item_bytes if config.momentum else 0
