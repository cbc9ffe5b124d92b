"""Loss scaling for fp16 (Micikevicius et al., arXiv:1710.03740): small gradients are lifted into fp16's range and put back after.

A step whose gradients overflow changes no weight and halves the scale; GROWTH_INTERVAL steps without one double it.
Each rank's gradient holds its world size as a factor, so the scale of a rank holds its inverse: the gradients that can
overflow, and what is logged and saved, are the same in any world.
"""

import math
from typing import Any

import torch

from launcher import log
from launcher.errors import NonFiniteError

INITIAL, LOWEST = 2.0**16, 1.0
GROWTH_INTERVAL = 2000  # steps


class LossScale:
    """A GradScaler for one rank of `world_size`, and what a run wants to know of it."""

    def __init__(self, device: torch.device, world_size: int):
        self.scaler = torch.amp.GradScaler(
            device.type, init_scale=INITIAL / world_size, growth_interval=GROWTH_INTERVAL
        )
        self._world_size = world_size

    @property
    def value(self) -> float:
        """What the loss of the global batch is multiplied with."""
        return self.scaler.get_scale() * self._world_size

    def after_step(self, grad_norm: float) -> None:
        """Say that a step was skipped. Raises NonFiniteError when gradients overflow at every scale."""
        if math.isfinite(grad_norm):
            return
        if self.value < LOWEST:
            raise NonFiniteError(
                f"the gradients are not finite in fp16, even at a loss scale of {2 * self.value:g}",
                fix="use training.precision bf16 or fp32, lower optimizer.learning_rate, or look at the data of this step",
            )
        log.say(f"fp16: gradients overflowed, this step changes no weight; loss scale {self.value:g} from now on")

    def state(self) -> dict[str, Any]:
        return self.scaler.state_dict() | {"scale": self.value}

    def load(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state | {"scale": state["scale"] / self._world_size})
