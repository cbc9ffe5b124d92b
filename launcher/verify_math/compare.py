"""How far a loss and its gradients are from the reference's, and how far they may be.

All distances are relative: of the whole gradient and of each parameter's, by their L2 norms. What is allowed is a multiple of what
rounding alone does to the reference, measured on the same model and batch.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

ROUNDING_UNIT = 2.0**-24  # of fp32; a parameter whose gradient is below this share of the whole has none to speak of
Gradients = Iterable[tuple[str, Tensor | None]]


@dataclass(frozen=True)
class Distance:
    """Between one way to compute a step and the reference. `norm` is that of the way's own gradient."""

    loss: float
    gradient: float
    by_parameter: dict[str, float]
    norm: float


@dataclass(frozen=True)
class Reference:
    """The loss, norms of the gradient, and what reads the gradient of a parameter."""

    loss: float
    norm: float
    norms: dict[str, float]
    read: Mapping[str, Callable[[], Tensor]]

    @classmethod
    def of(cls, loss: float, read: Mapping[str, Callable[[], Tensor]]) -> "Reference":
        norms = {name: float(gradient().double().norm()) for name, gradient in read.items()}
        return cls(loss, math.hypot(*norms.values()), norms, read)

    def distance(self, loss: float, gradients: Gradients) -> Distance | None:
        """None where the gradients are: every process goes through them, one of them holds them."""
        off: dict[str, float] = {}
        norms: dict[str, float] = {}
        for name, gradient in gradients:
            if gradient is not None:
                gradient = gradient.double()
                norms[name] = float(gradient.norm())
                off[name] = float((gradient - self.read[name]()).norm())
        if not off:
            return None
        least = ROUNDING_UNIT * self.norm
        by_parameter = {name: value / max(self.norms[name], least) for name, value in off.items()}
        by_parameter |= {name: math.inf for name in self.norms.keys() - off.keys()}  # it has no gradient at all
        whole = math.hypot(*off.values()) / self.norm
        return Distance(abs(loss / self.loss - 1), whole, by_parameter, math.hypot(*norms.values()))


@dataclass(frozen=True)
class Allowance:
    """`factor` times the distance `floor` that rounding makes; of a parameter, its own or that of the whole gradient."""

    factor: float
    floor: Distance

    @property
    def whole(self) -> float:
        return self.factor * self.floor.gradient

    def of(self, parameter: str) -> float:
        return self.factor * max(self.floor.by_parameter[parameter], self.floor.gradient)

    def judge(self, found: Distance) -> dict[str, Any]:
        """The verdict, and the parameter that uses up the most of its allowance. NaN is WRONG.

        The loss is one number whose own rounding may vanish by chance, so it is allowed what the whole gradient is.
        """
        shares = {name: value / self.of(name) for name, value in found.by_parameter.items()}
        worst = max(shares, key=lambda name: math.inf if math.isnan(shares[name]) else shares[name])
        fits = found.loss <= self.whole and found.gradient <= self.whole and shares[worst] <= 1
        return {
            "verdict": "ok" if fits else "WRONG",
            "loss_error": found.loss,
            "gradient_error": found.gradient,
            "gradient_norm": found.norm,
            "worst_parameter": worst,
            "worst_parameter_error": found.by_parameter[worst],
            "worst_parameter_allowed": self.of(worst),
        }
