"""reduce_on_plateau: the learning rate falls where evaluations stop getting better, as PyTorch's ReduceLROnPlateau lets it."""

import math
from collections.abc import Mapping
from typing import Any

THRESHOLD = 1e-4  # share of the best by which a value must be better to count, PyTorch's default


def note(progress: Any, plan: Any, metrics: Mapping[str, float]) -> bool:
    """Take an evaluation into the `plateau_*` of a run's progress; whether the rate falls for it."""
    if plan.schedule != "reduce_on_plateau":
        return False
    value = metrics.get(plan.metric_for_best_model or "eval/loss", math.nan)
    if math.isnan(value):
        return False
    if _is_better(value, progress.plateau_best, plan.greater_is_better):
        progress.plateau_best, progress.plateau_waited = value, 0
        return False
    progress.plateau_waited += 1
    if progress.plateau_waited <= plan.schedule_options["patience"] or progress.plateau_factor <= plan.min_lr_ratio:
        return False
    progress.plateau_factor = max(plan.min_lr_ratio, progress.plateau_factor * plan.schedule_options["gamma"])
    progress.plateau_waited = 0
    return True


def begin(progress: Any) -> None:
    """A stage has a plateau of its own."""
    progress.plateau_best, progress.plateau_waited, progress.plateau_factor = None, 0, 1.0


def _is_better(value: float, best: float | None, greater_is_better: bool) -> bool:
    if best is None:
        return True
    margin = THRESHOLD * abs(best)
    return value > best + margin if greater_is_better else value < best - margin
