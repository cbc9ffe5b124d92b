"""Which rows make up which step: a pure function of seed and lengths, so that resuming needs no loader state.

A *unit* is what one row of a batch holds: one example, or one bin of packed examples. Every world size sees the same
units in the same micro-batches; ranks only take different micro-batches of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from launcher.data.pack import best_fit

Unit = np.ndarray  # indices of rows


@dataclass(frozen=True)
class Source:
    """`rows`: indices of prepared rows; an epoch draws `weight` times as many of them."""

    rows: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True)
class Order:
    """The order of a whole run. `capacity` is the length of a packed row, or None for one example a row."""

    lengths: np.ndarray
    sources: tuple[Source, ...]
    seed: int
    global_batch_size: int
    capacity: int | None = None
    first_step: int = 0  # of the run: where a stage begins to draw from this data
    # Of pure results: the counts of all epochs, the units of two (the next step is made by a thread while one trains).
    _memo: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, compare=False)

    def steps_in(self, epoch: int) -> int:
        """Optimizer steps of an epoch. Where every weight is whole, all epochs have the same rows and as many steps."""
        key = ("steps", epoch if any(source.weight % 1 for source in self.sources) else 0)
        if key not in self._memo:
            self._memo[key] = ceil(len(self.units(key[1])) / self.global_batch_size)
        steps: int = self._memo[key]
        return steps

    def total_steps(self, num_epochs: float) -> int:
        whole = int(num_epochs)
        steps = sum(self.steps_in(epoch) for epoch in range(whole))
        share = (num_epochs - whole) * self.steps_in(whole) if num_epochs > whole else 0.0
        return steps + ceil(share - 1e-6)  # 2.1 epochs of 10 steps are 21 steps, though 2.1 - 2 is a little over 0.1

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step within it) of a 0-based step of the run."""
        epoch, step = 0, step - self.first_step
        while step >= self.steps_in(epoch):
            step -= self.steps_in(epoch)
            epoch += 1
        return epoch, step

    def epoch_after(self, step: int) -> float:
        """How many epochs are behind once `step` (1-based) is done."""
        if step <= self.first_step:
            return 0.0
        epoch, index = self.locate(step - 1)
        return epoch + (index + 1) / self.steps_in(epoch)

    def micro_batches(self, step: int, per_device_batch_size: int, count: int) -> list[list[Unit]]:
        """The global batch of a 0-based step, dealt into `count` micro-batches: those of all ranks.

        `count * per_device_batch_size` is the global batch size, so that the world does not matter.
        The last step of an epoch may run short: micro-batches are empty then.
        Neighbours in length share a micro-batch, which saves padding and leaves the sum over the batch as it was.
        """
        assert count * per_device_batch_size == self.global_batch_size, "rows would be left out"
        epoch, index = self.locate(step)
        first = index * self.global_batch_size
        batch = self.units(epoch)[first : first + self.global_batch_size]
        batch = sorted(batch, key=lambda unit: int(self.lengths[unit].sum()))
        return [batch[m * per_device_batch_size : (m + 1) * per_device_batch_size] for m in range(count)]

    def units(self, epoch: int) -> list[Unit] | np.ndarray:
        """All units of an epoch, shuffled by (seed, epoch); an array of shape (units, 1) where nothing is packed."""
        slot = ("units", epoch % 2)
        known = self._memo.get(slot)  # read and written whole: another thread may put another epoch here
        if known is None or known[0] != epoch:
            known = self._memo[slot] = (epoch, self._shuffled(epoch))
        units: list[Unit] | np.ndarray = known[1]
        return units

    def _shuffled(self, epoch: int) -> list[Unit] | np.ndarray:
        random = np.random.default_rng([self.seed, epoch, 0])
        rows = random.permutation(self._rows(epoch))  # packed rows, too, then meet others of their length each time
        if self.capacity is None:
            return rows[:, None]
        bins = best_fit(self.lengths[rows], self.capacity)
        return [rows[bins[i]] for i in random.permutation(len(bins))]

    def _rows(self, epoch: int) -> np.ndarray:
        return np.concatenate([self._drawn(number, source, epoch) for number, source in enumerate(self.sources)])

    def _drawn(self, number: int, source: Source, epoch: int) -> np.ndarray:
        """Whole passes in order, and the fraction that is left as a sample of its own for each epoch."""
        passes, share = divmod(source.weight, 1.0)
        drawn = [source.rows] * int(passes)
        if share:
            sample = np.random.default_rng([self.seed, epoch, 1, number]).permutation(len(source.rows))
            drawn.append(source.rows[sample[: max(1, round(share * len(source.rows)))]])
        return np.concatenate(drawn)


def sequential(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of single rows for evaluation: longest first, so that a lack of memory shows at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
