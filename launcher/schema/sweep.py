"""The search for good values of a recipe's keys: which are tried, how they are chosen, and by what they are judged."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from launcher.schema.values import Positive, Text
from launcher.section import FrozenDict, Section, freeze

Number = int | float


class Dimension(Section):
    """What one key of the recipe is set to: one of `values`, or a number from `low` to `high`."""

    values: Annotated[tuple[Any, ...], AfterValidator(freeze)] | None = None
    """Values to choose from, of any kind that the key takes."""
    low: Number | None = None
    """Least number. Whole ones only, where low, high and step are whole."""
    high: Number | None = None
    """Greatest number."""
    log: bool = False
    """Choose by the logarithm, as for learning rates."""
    step: Number | None = None
    """Distance between two numbers that are tried, from low on; null: 1 for whole numbers, else any."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        ends = (self.low, self.high)
        if self.values is not None:
            self._insist_on_values()
        elif None in ends:
            raise ValueError("says not what is tried; write {values: [...]} or {low: ..., high: ...}")
        else:
            self._insist_on_range()
        return self

    def _insist_on_values(self) -> None:
        if (self.low, self.high, self.step) != (None, None, None) or self.log:
            raise ValueError("has values, and a range beside them; give one of them")
        if not self.values:
            raise ValueError("lists no value to try")
        for place, value in enumerate(self.values):
            if any(value == other for other in self.values[:place]):
                raise ValueError(f"lists {value} twice")

    def _insist_on_range(self) -> None:
        assert self.low is not None and self.high is not None
        if not self.low < self.high:
            raise ValueError(f"low: {self.low} is not below high: {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low} has no logarithm; give one above 0, or leave log out")
        if self.log and self.step is not None:
            raise ValueError("steps of one size are none of the logarithm; leave step or log out, or list values")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step: {self.step} does not lead from {self.low} towards {self.high}")

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return all(isinstance(end, int) for end in (self.low, self.high)) and not isinstance(self.step, float)


class Sweep(Section):
    """What `launcher sweep` tries. Training by the recipe itself takes none of it."""

    space: Annotated[dict[str, Dimension], AfterValidator(freeze)] = FrozenDict()
    """Key of the recipe, with dots, to what it is set to: optimizer.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}."""
    trials: Positive | None = None
    """Trainings; null: all points of a grid, else 20."""
    metric: Text | None = None
    """eval/<one of evaluation.metrics>; null: evaluation.metric_for_best_model, or eval/loss."""
    greater_is_better: bool | None = None
    """Direction of that metric; null knows it for our own metrics."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How values are chosen; tpe learns from the trials before, grid tries every combination once."""
    startup_trials: Positive | None = None
    """Random trials before tpe begins to learn; null: 10."""
    pruner: Literal["none", "median", "asha"] = "none"
    """Which trials end early: those worse than the median at the same step, or all but the best at each rung of asha."""
    pruner_startup_trials: Positive | None = None
    """Trials that the median needs before any is ended; null: 5."""
    pruner_warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """No trial is ended before this step: 0 for the median; for asha the first rung, which else is a hundredth of a training."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """One trial in so many goes on to the next rung of asha, which is so many times as long; null: 4."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the choice of values; null: the recipe's own. Every trial is trained with the recipe's."""
    workers: Positive = 1
    """Trials at a time on one machine."""
    nproc: Positive = 1
    """Processes of each trial."""
    storage: Text | None = None
    """Where trials are recorded: postgresql://user@host/database for several machines; null: a file in the sweep's folder."""
    study: Text | None = None
    """Name in the storage; null: the recipe's name."""
