"""What a recipe's sweep is: its metric, its trials, the values of a grid; and where it contradicts itself or the recipe."""

import json
import math
from collections.abc import Iterator
from typing import Any

from launcher import metrics, parts
from launcher.schema import Dimension, Sections, Sweep
from launcher.section import plain

Finding = tuple[str, str]

DEFAULT_TRIALS = 20
# Keys that make no difference to training, or a difference that no metric could be compared over.
REFUSED = {
    "schema_version": "is the same for all trials",
    "name": "is the same for all trials",
    "extends": "is for recipe files only",
    "output_dir": "is the sweep's folder; each trial has its own in it",
    "sweep": "is what tries values, and not a value to try",
    "slurm": "is where a job runs, which nothing is learned from",
    "evaluation": "says what is measured; trials that are measured in other ways cannot be compared",
    "data.eval": "says what is measured; trials that are measured on other data cannot be compared",
}


def metric_of(recipe: Sections) -> str:
    """The metric that trials are judged by: eval/loss."""
    assert recipe.sweep is not None
    return recipe.sweep.metric or recipe.evaluation.metric_for_best_model or "eval/loss"


def greater_is_better(recipe: Sections) -> bool:
    """Direction of that metric."""
    assert recipe.sweep is not None
    given = recipe.sweep.greater_is_better
    return _direction(recipe, metric_of(recipe)) if given is None else given


def _direction(recipe: Sections, metric: str) -> bool:
    evaluation = recipe.evaluation
    if metric == evaluation.metric_for_best_model and evaluation.greater_is_better is not None:
        return evaluation.greater_is_better
    return metric.removeprefix("eval/") not in metrics.LOWER_IS_BETTER


def num_trials(sweep: Sweep) -> int:
    if sweep.sampler == "grid":
        return math.prod(len(grid_values(one)) for one in sweep.space.values())
    return sweep.trials or DEFAULT_TRIALS


def grid_values(dimension: Dimension) -> tuple[Any, ...]:
    """All values of a dimension that has a step."""
    if dimension.values is not None:
        return dimension.values
    low, high, step = dimension.low, dimension.high, dimension.step or 1
    assert low is not None and high is not None
    numbers = (low + step * place for place in range(int((high - low) / step + 1e-9) + 1))
    return tuple(number if dimension.is_whole else float(f"{number:.12g}") for number in numbers)


def override(key: str, value: Any) -> str:
    """`key=value`, as the command line takes it."""
    return f"{key}={json.dumps(plain(value))}"


def said(recipe: Sections) -> list[str]:
    """What `launcher sweep` would do with the recipe, in lines; none without a sweep."""
    if recipe.sweep is None:
        return []
    sweep, towards = recipe.sweep, "greatest" if greater_is_better(recipe) else "least"
    pruned = "" if sweep.pruner == "none" else f", pruned by {sweep.pruner}"
    chosen = f"{num_trials(sweep)} trials, {sweep.sampler}{pruned}, for the {towards} {metric_of(recipe)}"
    return [f"launcher sweep: {chosen}", *(f"  {line}" for line in in_words(sweep))]


def in_words(sweep: Sweep) -> list[str]:
    """A line for each key: what is tried."""
    return [f"{key}: {_dimension_in_words(one)}" for key, one in sweep.space.items()]


def _dimension_in_words(dimension: Dimension) -> str:
    if dimension.values is not None:
        return ", ".join(json.dumps(plain(value)) for value in dimension.values)
    by = f" by {dimension.step}" if dimension.step is not None else ", by the logarithm" if dimension.log else ""
    return f"{dimension.low} to {dimension.high}{by}"


# --- contradictions ---------------------------------------------------------------------------------------------------


def findings(recipe: Sections) -> Iterator[Finding]:
    if recipe.sweep is None:
        return
    yield from _keys(recipe.sweep)
    yield from _metric(recipe)
    yield from _sampler(recipe.sweep)
    yield from _pruner(recipe)
    storage = recipe.sweep.storage
    if storage is not None and not storage.startswith("postgresql://"):
        yield "sweep.storage", "write postgresql://user@host/database, or leave it out for a file in the sweep's folder"


def _keys(sweep: Sweep) -> Iterator[Finding]:
    for key in sweep.space:
        if reason := REFUSED.get(key) or REFUSED.get(key.partition(".")[0]):
            yield f"sweep.space.{key}", f"{reason}; take it out"
        whole = next((other for other in sweep.space if key.startswith(f"{other}.")), None)
        if whole is not None:
            yield f"sweep.space.{key}", f"is part of {whole}, which is tried as a whole; take one of them out"


def _metric(recipe: Sections) -> Iterator[Finding]:
    assert recipe.sweep is not None
    metric, evaluation, sweep = metric_of(recipe), recipe.evaluation, recipe.sweep
    if not recipe.data.eval:
        yield "sweep", "trials are judged by their evaluation; give data.eval"
    elif recipe.task in parts.names("tasks"):
        asked = evaluation.metrics or parts.load("tasks", recipe.task).TRAITS.default_metrics
        measured = [f"eval/{name}" for name in asked]
        if metric not in measured:
            where = "sweep.metric" if sweep.metric else "sweep"
            yield where, f"{metric} is not measured by evaluation.metrics; measured are {', '.join(measured)}"
    if metric == evaluation.metric_for_best_model and sweep.greater_is_better is (not _direction(recipe, metric)):
        yield "sweep.greater_is_better", f"contradicts evaluation, whose best model by {metric} is kept; leave it out"


def _sampler(sweep: Sweep) -> Iterator[Finding]:
    if sweep.startup_trials is not None and sweep.sampler != "tpe":
        yield "sweep.startup_trials", f"is for sampler: tpe, and this is sampler: {sweep.sampler}"
    if sweep.sampler != "grid":
        return
    for key in ("trials", "seed"):
        if getattr(sweep, key) is not None:
            yield f"sweep.{key}", "a grid tries each of its points once; take it out, or use sampler: random"
    for key, one in sweep.space.items():
        if one.values is None and (one.log or not one.is_whole and one.step is None):
            yield f"sweep.space.{key}", "a grid needs values, or a step from low to high; list values"


def _pruner(recipe: Sections) -> Iterator[Finding]:
    assert recipe.sweep is not None
    sweep = recipe.sweep
    owners = {
        "pruner_startup_trials": ("median",),
        "pruner_warmup_steps": ("median", "asha"),
        "reduction_factor": ("asha",),
    }
    for key, names in owners.items():
        if getattr(sweep, key) is not None and sweep.pruner not in names:
            yield f"sweep.{key}", f"is for pruner: {' or '.join(names)}, and this is pruner: {sweep.pruner}"
    if sweep.pruner != "none" and recipe.evaluation.eval_steps is None:
        yield "sweep.pruner", "trials are compared while they run; give evaluation.eval_steps"
