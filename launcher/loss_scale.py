"""Loss scaling for fp16 (Micikevicius et al., arXiv:1710.03740): small gradients are lifted into fp16's range and put back after.

A step whose gradients overflow changes no weight and halves the scale; GROWTH_INTERVAL steps without one double it. Each rank's
gradient holds the world size as a factor, so a rank's scale holds its inverse: which gradients overflow, and what is logged and
saved, is the same in any world.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from launcher import log, precision
from launcher.errors import NonFiniteError

LOWEST = 1.0


class LossScale:
    """PyTorch's GradScaler for one rank of `world_size`, and what a run wants to know of it."""

    def __init__(self, device: torch.device, world_size: int):
        first = 2.0**precision.INITIAL_SCALE_POWER / world_size
        self.scaler = torch.amp.GradScaler(device.type, init_scale=first, growth_interval=precision.GROWTH_INTERVAL)
        self._world_size = world_size

    @property
    def value(self) -> float:
        """What the loss of the global batch is multiplied with."""
        return self.of_rank * self._world_size

    @property
    def of_rank(self) -> float:
        return self.scaler.get_scale()

    def after_step(self, grad_norm: float) -> None:
        """Say that a step was skipped. Raises NonFiniteError when gradients overflow at every scale."""
        _judge(grad_norm, self.value)

    def state(self) -> dict[str, Any]:
        """`scale`, and `good_steps` since it changed: the same for every world and strategy."""
        return {"scale": self.value, "good_steps": self.scaler.state_dict()["_growth_tracker"]}

    def load(self, state: dict[str, Any]) -> None:
        scale, good_steps = state["scale"] / self._world_size, state["good_steps"]
        self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": good_steps})


class ZeroLossScale:
    """The same where DeepSpeed scales: `use` is told the factor of this rank's loss whenever it changes."""

    def __init__(self, use: Callable[[float], None], world_size: int):
        self._use, self._world_size = use, world_size
        self.load({"scale": 2.0**precision.INITIAL_SCALE_POWER, "good_steps": 0})

    @property
    def of_rank(self) -> float:
        return self.value / self._world_size

    def after_step(self, grad_norm: float) -> None:
        """`grad_norm` is not finite where DeepSpeed skipped the step."""
        if not math.isfinite(grad_norm):
            self.load({"scale": self.value / 2, "good_steps": 0})
        elif self._good_steps + 1 == precision.GROWTH_INTERVAL:
            self.load({"scale": self.value * 2, "good_steps": 0})
        else:
            self._good_steps += 1
        _judge(grad_norm, self.value)

    def state(self) -> dict[str, Any]:
        return {"scale": self.value, "good_steps": self._good_steps}

    def load(self, state: dict[str, Any]) -> None:
        self.value, self._good_steps = float(state["scale"]), int(state["good_steps"])
        self._use(self.of_rank)


def _judge(grad_norm: float, scale: float) -> None:
    if math.isfinite(grad_norm):
        return
    if scale < LOWEST:
        raise NonFiniteError(
            f"the gradients are not finite in fp16, even at a loss scale of {2 * scale:g}",
            fix="use training.precision bf16 or fp32, lower optimizer.learning_rate, or look at the data of this step",
        )
    log.say(f"fp16: gradients overflowed, this step changes no weight; loss scale {scale:g} from now on")
