"""The learning-rate range test (Smith, arXiv:1506.01186), with the smoothing, the stop and the suggestions of fastai.

The learning rate grows exponentially from step to step. The loss at a rate is that of the step which is about to use it, over the
global batch of all ranks, so that every rank sees the same numbers and all stop together.
"""

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from launcher import log, loop, output, run
from launcher.checkpoint import Checkpoints
from launcher.engine import Engine
from launcher.errors import NonFiniteError
from launcher.run import Prepared

SMOOTHING = 0.98  # how much of the average stays at each step
EXPLODES = 4.0  # times the lowest smoothed loss
SURE = 3.0  # standard errors that a fall must exceed
LEAST_FALL = 1e-3  # of the level, below which rounding may be what falls
FEWEST = 10  # steps


@dataclass(frozen=True)
class Range:
    """Learning rates from `low` to `high` in `steps` steps, both ends included."""

    low: float
    high: float
    steps: int

    def rate(self, step: int) -> float:
        return float(self.low * (self.high / self.low) ** (step / (self.steps - 1)))


@dataclass(frozen=True)
class Found:
    """One value a step. `steepest`: the rate where the smoothed loss falls fastest; `tenth`: a tenth of that of its minimum.

    Both are None where the loss does not fall; `ended` says why the test ended, `verdict` what is suggested.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    ended: str
    steepest: float | None
    tenth: float | None

    @property
    def verdict(self) -> str:
        if self.steepest is None or self.tenth is None:
            return (
                "no suggestion: the loss does not fall by more than its noise; try other --from, --to or more --steps"
            )
        at_end = "; it still falls at the last rate, so the minimum may lie beyond" if self._falls_at_end else ""
        return (
            f"steepest descent of the smoothed loss:    optimizer.learning_rate={self.steepest:.2e}\n"
            f"a tenth of the rate of its minimum:       optimizer.learning_rate={self.tenth:.2e}{at_end}"
        )

    @property
    def _falls_at_end(self) -> bool:
        return min(self.smoothed) == self.smoothed[-1]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def find(prepared: Prepared, running: Engine, wanted: Range) -> Found:
    """Train over the range in memory; nothing is saved. Every rank must call, and gets the same."""
    own = replace(prepared, plan=replace(prepared.plan, last_step=wanted.steps, total_steps=wanted.steps))
    with tempfile.TemporaryDirectory() as folder:  # for a run that never saves
        place = output.Place(Path(folder), Checkpoints(Path(folder), 1, running), None)
        ready = run.set_up(own, running, place)
        losses: list[float] = []
        ended = _train(ready, wanted, losses)
    return judged([wanted.rate(step) for step in range(len(losses))], losses, ended)


def _train(ready: run.Run, wanted: Range, losses: list[float]) -> str:
    """Fills `losses`; returns why it ended."""
    for step, micro_batches in ready.steps():
        rate = wanted.rate(step)
        try:
            loop.backward(ready, step, micro_batches, {})
            loss = ready.meter.read()["train/loss"]
            if not math.isfinite(loss):
                return f"the loss is {loss} at {rate:.2e}"
            losses.append(loss)
            if has_exploded(smoothed(losses)):
                return f"the smoothed loss exploded at {rate:.2e}"
            ready.engine.set_learning_rate(rate)
            ready.engine.step()
        except NonFiniteError as error:
            return f"{error.problem} at {rate:.2e}"
        if (step + 1) % max(1, wanted.steps // 10) == 0:
            log.say(f"step {step + 1}/{wanted.steps}: learning rate {rate:.2e}, loss {loss:.4f}")
    return f"all {wanted.steps} steps are done"


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential average, corrected for its start at zero."""
    average, values = 0.0, []
    for number, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        values.append(average / (1 - SMOOTHING**number))
    return values


def has_exploded(values: Sequence[float]) -> bool:
    """Above `EXPLODES` times the lowest; as far above it where that is negative."""
    lowest = min(values)
    return values[-1] > lowest + (EXPLODES - 1) * abs(lowest)


def judged(rates: list[float], losses: list[float], ended: str) -> Found:
    """The suggestions. The first tenth of the values only tells the level that the loss falls from."""
    values, begin = smoothed(losses), max(2, len(losses) // 10)
    if len(losses) < FEWEST:
        return Found(rates, losses, values, ended, None, None)
    lowest = min(range(begin, len(values)), key=values.__getitem__)
    enough = max(SURE * _error_of_mean(losses[: lowest + 1], begin), LEAST_FALL * abs(values[begin]))
    if values[begin] - values[lowest] <= enough:
        return Found(rates, losses, values, ended, None, None)
    falls = [
        values[i] - values[i - 1] for i in range(begin + 1, lowest + 1)
    ]  # rates are evenly spaced in their logarithm
    steepest = begin + min(range(len(falls)), key=falls.__getitem__) + 1
    return Found(rates, losses, values, ended, rates[steepest], rates[lowest] / 10)


def _error_of_mean(losses: Sequence[float], number: int) -> float:
    """Standard error of a mean of `number` losses, from how much neighbours differ."""
    between = [b - a for a, b in zip(losses, losses[1:], strict=False)]
    return statistics.pstdev(between) / math.sqrt(2 * number)
