"""What is worth knowing about a run at a glance: who it is, how far it came and whether it got better."""

import time
from dataclasses import dataclass
from typing import Any

import yaml

from launcher.report import words
from launcher.report.words import is_number
from launcher.run_folder import MEANING_OF_EXIT_CODE, RunFolder, kind_of, state_of_exit_code

LATEST_TIME = 1e11  # unix seconds; beyond it no calendar goes
UNITS = ("tokens", "images", "clips")  # what a line of metrics counts, by the kind of data


@dataclass(frozen=True)
class Attempt:
    """One process that worked on the run, from its start to its end."""

    number: str
    started: float | None
    ended: float | None
    host: str
    world: Any
    first_step: int | None
    last_step: int | None
    exported_step: int | None
    outcome: str
    error: str

    @property
    def seconds(self) -> float | None:
        return None if self.started is None or self.ended is None else max(0.0, self.ended - self.started)


@dataclass(frozen=True)
class Best:
    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Goal:
    """The metric that chooses the checkpoint (the evaluation loss where the recipe names none) and its direction."""

    metric: str
    greater_is_better: bool | None

    def lower_is_better(self, metric: str) -> bool:
        """What the recipe says of its own metric, else what the name says."""
        if metric == self.metric and self.greater_is_better is not None:
            return not self.greater_is_better
        return words.lower_is_better(metric)


@dataclass(frozen=True)
class Facts:
    """Times are unix seconds, `seconds` is the time that processes worked, without the gaps between attempts.

    `seen` counts what was trained on in `unit`: tokens, images, or clips of sound. `exported_step`, if it is known, is the one
    whose model was exported: the best, where the recipe asks for it, and then maybe not the last.
    """

    name: str
    state: str
    task: str
    method: str
    model: str
    started: float | None
    ended: float | None
    seconds: float | None
    step: int | None
    exported_step: int | None
    epoch: float | None
    seen: float | None
    unit: str
    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    attempts: list[Attempt]
    goal: Goal
    best: Best | None

    @property
    def is_taken_back(self) -> bool:
        """Whether what was exported is not the last step."""
        return self.exported_step is not None and self.exported_step != self.step


def gather(folder: RunFolder) -> Facts:
    metrics, state = folder.metrics(), folder.state()
    recipe = read_recipe(folder)
    attempts = _attempts(folder, state)
    worked = [attempt.seconds for attempt in attempts if attempt.seconds is not None]
    # The last line of the file, not the largest step: a resumed run may not yet be where the lost attempt was.
    last = (folder.metrics_as_written() or [{}])[-1]
    unit = next((name for name in UNITS if name in last), UNITS[0])
    evaluations = [record for record in metrics if kind_of(record) == "eval"]
    goal = _goal(recipe)
    exported_step = attempts[-1].exported_step if attempts else None
    return Facts(
        name=str(recipe.get("name") or folder.path.resolve().name),
        state=state,
        task=str(recipe.get("task") or ""),
        method=str(recipe.get("method") or ""),
        model=_model_name(recipe),
        started=next((attempt.started for attempt in attempts if attempt.started is not None), None),
        ended=attempts[-1].ended if attempts and state != "running" else None,
        seconds=sum(worked) if worked else None,
        step=last.get("step"),
        exported_step=exported_step,
        epoch=_number_or_none(last.get("epoch")),
        seen=_number_or_none(last.get(unit)),
        unit=unit,
        train=[record for record in metrics if kind_of(record) == "train"],
        evaluations=evaluations,
        attempts=attempts,
        goal=goal,
        best=_best(goal, evaluations, exported_step),
    )


def values_of(records: list[dict[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, value) wherever the metric is a finite number."""
    return [(record["step"], record[metric]) for record in records if is_number(record.get(metric))]


def after(values: list[tuple[int, float]], exported_step: int | None) -> tuple[int, float]:
    """The (step, value) that a training came to: of what was exported if that has one, or else the last."""
    return next((pair for pair in values if pair[0] == exported_step), values[-1])


def best_of(values: list[tuple[int, float]], lower_is_better: bool, exported_step: int | None) -> tuple[int, float]:
    """The (step, value) of the best; of several that are as good, that of what was exported, or else the first."""
    sign = 1 if lower_is_better else -1
    return min(values, key=lambda pair: (sign * pair[1], pair[0] != exported_step))


def read_recipe(folder: RunFolder) -> dict[str, Any]:
    # Read as plain YAML, not as a Recipe: a run of an older schema must still be shown.
    try:
        content = yaml.safe_load(folder.recipe_text())
    except yaml.YAMLError as error:
        folder.unreadable.append(f"recipe.yaml is not YAML: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def _section(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    section = recipe.get(name)
    return section if isinstance(section, dict) else {}


def _model_name(recipe: dict[str, Any]) -> str:
    model = _section(recipe, "model")
    if model.get("name_or_path"):
        return str(model["name_or_path"])
    init = model.get("init")
    kind = init.get("model_type", "model") if isinstance(init, dict) else init
    return f"{kind} from scratch" if kind else ""


def _goal(recipe: dict[str, Any]) -> Goal:
    section = _section(recipe, "evaluation")
    greater = section.get("greater_is_better")
    return Goal(
        str(section.get("metric_for_best_model") or "eval/loss"), greater if isinstance(greater, bool) else None
    )


def _best(goal: Goal, evaluations: list[dict[str, Any]], exported_step: int | None) -> Best | None:
    """Of the steps that were trained: what stood before them is no checkpoint."""
    found = values_of(evaluations, goal.metric)
    values = [pair for pair in found if pair[0] > 0] or found
    if not values:
        return None
    step, value = best_of(values, goal.lower_is_better(goal.metric), exported_step)
    return Best(goal.metric, value, step)


def _attempts(folder: RunFolder, state: str) -> list[Attempt]:
    """Starts and ends paired by their number; the last start without an end runs, earlier ones were killed."""
    pairs: dict[str, dict[str, dict[str, Any]]] = {}
    records = folder.attempts()
    for position, record in enumerate(records):
        pairs.setdefault(str(record.get("attempt", position + 1)), {})[record["event"]] = record
    attempts = [_attempt(number, pair) for number, pair in pairs.items()]
    if attempts and records[-1]["event"] == "start":
        attempts[-1] = _unfinished(attempts[-1], state, folder.last_sign_of_life())
    return attempts


def _attempt(number: str, pair: dict[str, dict[str, Any]]) -> Attempt:
    start, end = pair.get("start", {}), pair.get("end", {})
    facts = {**start, **{key: value for key, value in end.items() if value is not None}}
    return Attempt(
        number=number,
        started=_seconds_or_none(start.get("time")),
        ended=_seconds_or_none(end.get("time")),
        host=str(facts.get("host") or ""),
        world=facts.get("world"),
        first_step=start.get("first_step", end.get("first_step")),
        last_step=end.get("last_step"),
        exported_step=exported if isinstance(exported := end.get("exported_step"), int) else None,
        outcome=_outcome(end.get("exit_code")) if end else "killed",
        error=str(end.get("error") or ""),
    )


def _unfinished(attempt: Attempt, state: str, last_sign_of_life: float) -> Attempt:
    until = time.time() if state == "running" else last_sign_of_life
    started = attempt.started if attempt.started is not None else until
    return Attempt(**{**vars(attempt), "ended": max(until, started), "outcome": state})


def _outcome(code: Any) -> str:
    meaning = MEANING_OF_EXIT_CODE.get(code) if isinstance(code, int) else None
    return state_of_exit_code(code) + (f": {meaning}" if meaning else "")


def _number_or_none(value: Any) -> float | None:
    return value if is_number(value) else None


def _seconds_or_none(value: Any) -> float | None:
    return float(value) if is_number(value) and 0 <= value < LATEST_TIME else None
