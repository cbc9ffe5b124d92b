"""Losses and speed since they were last read."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from launcher.engine import Engine
from launcher.losses import Loss


class Meter:
    """Sums stay on the device until they are read. What is not read yet goes into a checkpoint: a resumed run logs the same.

    `unit`: what speed is counted in, tokens or images for example.
    """

    def __init__(self, engine: Engine, unit: str):
        self._engine, self._unit, self._idle_seconds, self._seen = engine, unit, 0.0, 0
        self._sums: dict[str, float] = defaultdict(float)  # or tensors, as soon as something is added
        self._since = time.perf_counter()

    def add(self, loss: Loss) -> None:
        for name, (value, count, weight) in loss.terms.items():
            self._sums[f"{name} sum"] += weight * value.detach().double()
            self._sums[f"{name} count"] += count

    def add_seen(self, number: int) -> None:
        self._seen += number

    def read(self) -> dict[str, float]:
        """Mean loss over all ranks and speed of training since the last reading."""
        totals = self.unread()
        terms = {name.rsplit(" ", 1)[0] for name in totals}
        loss = sum(totals[f"{term} sum"] / (totals[f"{term} count"] or 1) for term in sorted(terms))
        speed = self._seen / (time.perf_counter() - self._since - self._idle_seconds)
        self._sums.clear()
        self._since, self._seen, self._idle_seconds = time.perf_counter(), 0, 0.0
        return {"train/loss": loss, f"train/{self._unit}_per_second": speed}

    def unread(self) -> dict[str, float]:
        """The sums so far over all ranks; every rank must ask."""
        return self._engine.sum({name: float(value) for name, value in self._sums.items()})

    def take_up(self, unread: Mapping[str, float]) -> None:
        """Go on from the sums of a checkpoint; one rank holds them for all."""
        self._sums.update({name: value if self._engine.is_main else 0.0 for name, value in unread.items()})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count against the speed of training."""
        start = time.perf_counter()
        yield
        self._idle_seconds += time.perf_counter() - start
