"""A moving average of the weights that are trained, which is what is evaluated, saved as the model and exported.

average += (1 - decay) * (weight - average) after each step, in fp32. The decay of the n-th step is min(decay, (1 + n) / (10 + n)),
as in TensorFlow's ExponentialMovingAverage with `num_updates`, so that a short training is not held back by where it began.
Buffers, such as the running statistics of batch normalisation, are those of the training.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

WEIGHT, AVERAGE = (
    "weight",
    "average",
)  # states of a parameter in a checkpoint; the second, where `model/` would round it
Write = Callable[[Tensor, Callable[[], Tensor]], None]


class Average:
    """Of parameters that every rank holds whole."""

    def __init__(self, objective: nn.Module, decay: float):
        self.decay = decay
        self._trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        self.begin()

    def begin(self) -> None:
        """The average of a single state: the weights as they are."""
        self._values = {name: p.detach().to(torch.float32, copy=True) for name, p in self._trained.items()}

    def update(self, number: int) -> None:
        """After the `number`-th step, from 1."""
        weights = [p.detach().float() for p in self._trained.values()]
        step: Any = get_ema_multi_avg_fn(min(self.decay, (1 + number) / (10 + number)))
        step(list(self._values.values()), weights, None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The weights are their average, and then what they were, to the bit."""
        weights = {name: p.detach().clone() for name, p in self._trained.items()}
        self.settle()
        try:
            yield
        finally:
            self._put(weights)

    def settle(self) -> None:
        """The weights are their average from here on."""
        self._put(self._values)

    def states(self) -> Iterator[tuple[str, str, Tensor]]:
        """(parameter, state, value) of what a checkpoint needs beside the average in its model."""
        for name, p in self._trained.items():
            yield name, WEIGHT, p.detach().clone()
            if p.dtype != torch.float32:
                yield name, AVERAGE, self._values[name].clone()

    def load(self, states: Mapping[str, Mapping[str, Tensor]], write: Write) -> dict[str, dict[str, Tensor]]:
        """Take up what `states` gave, when the weights are those of the model that was saved; returns the other states."""
        self.begin()
        rest: dict[str, dict[str, Tensor]] = {}
        for name, found in states.items():
            if AVERAGE in found:
                self._values[name].copy_(found[AVERAGE])
            write(self._trained[name], lambda found=found: found[WEIGHT])  # type: ignore[misc]
            rest[name] = {key: value for key, value in found.items() if key not in (WEIGHT, AVERAGE)}
        return rest if any(rest.values()) else {}

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self._trained.items():
                p.copy_(values[name])
