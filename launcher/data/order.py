"""Which rows make up which step: a pure function of seed and lengths, so that resuming needs no loader state.

A *unit* is what one row of a batch holds: one example, or one bin of packed examples. Every world size sees the same units in
the same micro-batches; ranks only take different micro-batches of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from launcher.data.pack import best_fit

Unit = np.ndarray  # indices of rows


@dataclass(frozen=True)
class Source:
    """Rows [start, start + size) of the prepared data; an epoch draws `weight` times as many of them."""

    start: int
    size: int
    weight: float = 1.0


@dataclass(frozen=True)
class Order:
    """The order of a whole run. `capacity` is the length of a packed row, or None for one example a row."""

    lengths: np.ndarray
    sources: tuple[Source, ...]
    seed: int
    global_batch_size: int
    capacity: int | None = None
    _memo: dict = field(
        default_factory=dict, repr=False, compare=False
    )  # of pure results: one epoch's units, counts of all

    def steps_in(self, epoch: int) -> int:
        """Optimizer steps of an epoch. Where every weight is whole, each epoch has the same rows and so the same number."""
        key = ("steps", epoch if any(source.weight % 1 for source in self.sources) else 0)
        if key not in self._memo:
            self._memo[key] = ceil(len(self.units(key[1])) / self.global_batch_size)
        return self._memo[key]

    def total_steps(self, num_epochs: float) -> int:
        whole = int(num_epochs)
        steps = sum(self.steps_in(epoch) for epoch in range(whole))
        return steps + ceil((num_epochs - whole) * self.steps_in(whole)) if num_epochs > whole else steps

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step within it) of a 0-based step of the run."""
        epoch = 0
        while step >= self.steps_in(epoch):
            step -= self.steps_in(epoch)
            epoch += 1
        return epoch, step

    def epoch_after(self, step: int) -> float:
        """How many epochs are behind once `step` (1-based) is done."""
        if step == 0:
            return 0.0
        epoch, index = self.locate(step - 1)
        return epoch + (index + 1) / self.steps_in(epoch)

    def micro_batches(self, step: int, per_device_batch_size: int, count: int) -> list[list[Unit]]:
        """The global batch of a 0-based step, dealt into `count` micro-batches; the last of an epoch may run short or empty.

        Neighbours in length share a micro-batch, which saves padding and leaves the sum over the batch as it was.
        """
        epoch, index = self.locate(step)
        first = index * self.global_batch_size
        batch = self.units(epoch)[first : first + self.global_batch_size]
        batch = sorted(batch, key=lambda unit: int(self.lengths[unit].sum()))
        return [batch[m * per_device_batch_size : (m + 1) * per_device_batch_size] for m in range(count)]

    def units(self, epoch: int) -> list[Unit]:
        """All units of an epoch, shuffled by (seed, epoch)."""
        if self._memo.get("epoch") != epoch:
            rows = self._rows(epoch)
            units = [rows[i : i + 1] for i in range(len(rows))]
            if self.capacity is not None:
                units = [rows[members] for members in best_fit(self.lengths[rows], self.capacity)]
            shuffle = np.random.default_rng([self.seed, epoch, 0]).permutation(len(units))
            self._memo.update(epoch=epoch, units=[units[i] for i in shuffle])
        return self._memo["units"]

    def _rows(self, epoch: int) -> np.ndarray:
        return np.concatenate([self._drawn(number, source, epoch) for number, source in enumerate(self.sources)])

    def _drawn(self, number: int, source: Source, epoch: int) -> np.ndarray:
        """Whole passes in order, and the fraction that is left as a sample of its own for each epoch."""
        passes, share = divmod(source.weight, 1.0)
        rows = np.arange(source.start, source.start + source.size)
        drawn = [rows] * int(passes)
        if share:
            sample = np.random.default_rng([self.seed, epoch, 1, number]).permutation(source.size)
            drawn.append(np.sort(rows[sample[: round(share * source.size)]]))
        return np.concatenate(drawn) if drawn else rows[:0]


def sequential(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of single rows for evaluation: longest first, so that a lack of memory shows at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
