"""When things happen: how many steps there are, and at which of them the learning rate, evaluation and saving take turns."""

from collections.abc import Callable
from typing import Any

from launcher.data.order import Order
from launcher.metrics import LOWER_IS_BETTER
from launcher.notes import Notes
from launcher.parts import load
from launcher.recipe import Recipe
from launcher.schedules import OPTIONS

DEFAULTS: dict[str, Any] = {
    "decay_steps": 0.2,
    "num_cycles": 2,
    "power": 2.0,
    "step_size": 1 / 3,
    "gamma": 0.1,
    "patience": 2,
}
OrderOf = Callable[[int], Order]  # from a global batch size


def derive(notes: Notes, recipe: Recipe, order_of: OrderOf | None, data_note: str, first_step: int | None = 0) -> None:
    """Steps and everything that is counted in steps. `order_of` is None where the data cannot be read; `data_note` says why.

    The learning rate and shares of steps follow the steps from `first_step` on: those of the stage.
    """
    length = _steps(notes, recipe, order_of, data_note, first_step)
    _rhythm(notes, recipe, length)


def _steps(
    notes: Notes, recipe: Recipe, order_of: OrderOf | None, data_note: str, first_step: int | None
) -> int | None:
    """How many there are from `first_step` on."""
    epochs, max_steps = recipe.training.num_train_epochs, recipe.training.max_steps
    order: Order | None = order_of(notes["global_batch_size"]) if order_of else None
    if order is None:
        for name in ("train_rows", "rows_per_epoch", "steps_per_epoch"):
            notes.put(name, None, f"unknown: {data_note}")
    else:
        notes.put("train_rows", len(order.lengths), "counted: prepared examples")
        packed = f"packed to at most {order.capacity} tokens" if order.capacity else "one example each"
        notes.put("rows_per_epoch", len(order.units(0)), f"computed: {packed}")
        notes.put("steps_per_epoch", order.steps_in(0), "computed: rows_per_epoch / global_batch_size, rounded up")
    if max_steps is not None:
        length, origin = max_steps, recipe.origin("training.max_steps")
    elif order is None:
        length, origin = None, f"unknown: {data_note}"
    else:
        length, origin = order.total_steps(epochs or 1.0), f"computed: {epochs or 1.0:g} epochs"
    end = None if first_step is None or length is None else first_step + length
    notes.put("stages", (), "none: one training")
    notes.put("stage", None, "none: one training")
    notes.put("first_step", first_step, "after the stages before" if first_step else "the beginning")
    notes.put("last_step", end, origin)
    notes.put("total_steps", end, origin)
    return length


def _rhythm(notes: Notes, recipe: Recipe, total: int | None) -> None:
    scheduler = recipe.scheduler
    notes.take("schedule", "scheduler.name", scheduler.name)
    notes.take("learning_rate", "optimizer.learning_rate", recipe.optimizer.learning_rate)
    _share(notes, "warmup_steps", "scheduler.warmup_steps", scheduler.warmup_steps, total, least=0)
    notes.put("schedule_options", *_own_options(notes, recipe, total))
    notes.take("min_lr_ratio", "scheduler.min_lr_ratio", scheduler.min_lr_ratio)
    _share(notes, "eval_steps", "evaluation.eval_steps", recipe.evaluation.eval_steps, total)
    _judging(notes, recipe)
    _share(notes, "save_steps", "checkpoint.save_steps", recipe.checkpoint.save_steps, total)
    notes.take("save_total_limit", "checkpoint.save_total_limit", recipe.checkpoint.save_total_limit)
    notes.take("logging_steps", "logging.logging_steps", recipe.logging.logging_steps)


def _own_options(notes: Notes, recipe: Recipe, total: int | None) -> tuple[dict[str, Any] | None, str]:
    """What the schedule alone reads, in steps where it is a share of them."""
    names = OPTIONS.get(recipe.scheduler.name, ())
    if not names:
        return {}, f"{recipe.scheduler.name} has none"
    found = {name: getattr(recipe.scheduler, name) for name in names}
    defaults = DEFAULTS | {"timescale": notes["warmup_steps"]}
    origins = [recipe.origin(f"scheduler.{name}") if found[name] is not None else "default" for name in names]
    values = {name: defaults[name] if value is None else value for name, value in found.items()}
    for name in ("decay_steps", "step_size"):
        if 0 < values.get(name, 0) < 1:
            if total is None:
                return None, "unknown: a share of total_steps"
            values[name] = max(1, round(values[name] * total))
    return values, ", ".join(origins)


def _judging(notes: Notes, recipe: Recipe) -> None:
    section = recipe.evaluation
    if section.metrics is None:
        notes.put("metrics", load("tasks", recipe.task).TRAITS.default_metrics, f"usual for {recipe.task}")
    else:
        notes.take("metrics", "evaluation.metrics", section.metrics)
    metric = notes.take("metric_for_best_model", "evaluation.metric_for_best_model", section.metric_for_best_model)
    if section.greater_is_better is None:
        greater = metric is not None and metric.removeprefix("eval/") not in LOWER_IS_BETTER
        notes.put("greater_is_better", greater, "known for our own metrics")
    else:
        notes.take("greater_is_better", "evaluation.greater_is_better", section.greater_is_better)
    notes.take("early_stopping_patience", "evaluation.early_stopping_patience", section.early_stopping_patience)


def _share(notes: Notes, name: str, key: str, value: float | None, total: int | None, least: int = 1) -> None:
    """A number of steps, or below 1 a share of all steps."""
    if value is None:
        notes.put(name, None, "default: only at the end")
    elif value >= 1 or value == 0:
        notes.take(name, key, int(value))
    elif total is None:
        notes.put(name, None, "unknown: a share of total_steps")
    else:
        origin = f"computed: {value:g} of total_steps ({notes.recipe.origin(key)})"
        notes.put(name, max(least, round(value * total)), origin)
