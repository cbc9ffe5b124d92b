"""Puts a run's facts, charts and files together and fills the page's template, which escapes everything by itself."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from launcher.report import words
from launcher.report.charts import Drawing, Series, Steps, draw
from launcher.report.details import details_of
from launcher.report.facts import Facts, Goal, after, best_of, gather, values_of
from launcher.run_folder import RunFolder

RATE = "train/learning_rate"
WIDE, NARROW, SMALL = (1080, 330), (400, 300), (400, 200)
SAMPLES_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """A metric of the evaluation before and after training."""

    metric: str
    title: str
    before: float
    after: float
    after_step: int
    best: float
    best_step: int
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """better | worse | same."""
        if self.before == self.after:
            return "same"
        return "better" if (self.after < self.before) == self.lower_is_better else "worse"

    @property
    def arrow(self) -> str:
        return "▲" if self.after > self.before else "▼" if self.after < self.before else "="

    @property
    def difference(self) -> str:
        value = self.after - self.before
        return ("+" if value > 0 else "") + words.number(value)

    @property
    def percent(self) -> str:
        return words.percent(self.before, self.after)


@dataclass(frozen=True)
class Figure:
    """One chart with its title; `narrow` is the same chart for a telephone, where a wide one would be too small."""

    metric: str
    title: str
    wide: Drawing
    narrow: Drawing | None = None


def render(folder: RunFolder) -> str:
    """The whole page as text. Parts that the run does not have are left out with a sentence."""
    facts = gather(folder)
    schedule = folder.schedule()
    steps = _steps(facts, schedule)
    plan, environment, samples = folder.plan(), folder.environment(), folder.samples()
    return template("page.html").render(
        facts=facts,
        path=str(folder.path),
        changes=changes(facts.evaluations, facts.goal, facts.exported_step),
        details=details_of(folder),
        loss=_loss_figure(facts, steps),
        figures=_small_figures(facts, steps, schedule),
        moments=_moments(facts),
        samples=samples,
        samples_shown=SAMPLES_SHOWN,
        plan=_plan_rows(plan),
        recipe=[_yaml_line(line) for line in folder.recipe_text().splitlines()],
        environment=environment,
        unreadable=folder.unreadable,
    )


def changes(evaluations: list[dict[str, Any]], goal: Goal, exported_step: int | None = None) -> list[Change]:
    """First evaluation against that of what was exported, or the last: the goal first, then the loss, then as written.

    One alone gives no change.
    """
    if len(evaluations) < 2:
        return []
    metrics = [key for key in evaluations[-1] if key.startswith("eval/")]
    # Sorting is stable, so the others stay as the run wrote them.
    ordered = sorted(metrics, key=lambda metric: (metric != goal.metric, metric != "eval/loss"))
    return [_change(m, values, goal, exported_step) for m in ordered if len(values := values_of(evaluations, m)) >= 2]


def _change(metric: str, values: list[tuple[int, float]], goal: Goal, exported_step: int | None) -> Change:
    lower = goal.lower_is_better(metric)
    best_step, best = best_of(values, lower, exported_step)
    title = "Evaluation loss" if metric == "eval/loss" else words.title_of(metric)
    after_step, came_to = after(values, exported_step)
    return Change(metric, title, values[0][1], came_to, after_step, best, best_step, lower)


def _steps(facts: Facts, schedule: dict[str, Any]) -> Steps:
    logged = [record["step"] for record in facts.train + facts.evaluations]
    resumed_at = [float(a.first_step) for a in facts.attempts[1:] if isinstance(a.first_step, int)]
    stages = [(float(step), str(name)) for step, name in _pairs(schedule, "stages") if words.is_number(step)]
    return Steps(0, max(logged, default=0), resumed_at, stages)


def _pairs(schedule: dict[str, Any], name: str) -> list[tuple[Any, Any]]:
    listed = schedule.get(name)
    pairs = listed if isinstance(listed, list) else []
    return [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2]


def _loss_figure(facts: Facts, steps: Steps) -> Figure | None:
    train, evaluated = values_of(facts.train, "train/loss"), values_of(facts.evaluations, "eval/loss")
    series = [Series("training", train, smooth=True)] if train else []
    series += [Series("evaluation", evaluated, look="dots")] if evaluated else []
    if not series:
        return None
    return Figure(
        "loss",
        "Loss",
        draw(series, WIDE, steps, label_width=78),
        draw(series, NARROW, steps, label_width=66),
    )


def _small_figures(facts: Facts, steps: Steps, schedule: dict[str, Any]) -> list[Figure]:
    """One chart for every other number that was logged: evaluation first, then training."""
    figures = []
    for records, look in ((facts.evaluations, "dots"), (facts.train, "line")):
        names = dict.fromkeys(key for record in records for key in record if "/" in key)
        for metric in names:
            points = values_of(records, metric)
            if points and metric not in ("train/loss", "eval/loss"):
                title = words.title_of(metric)
                smooth = metric == "train/grad_norm" or metric.endswith("_per_second")
                series = [Series(title, points, look, smooth)]
                if metric == RATE:
                    series += _planned(schedule, steps.last)
                figures.append(Figure(metric, title, draw(series, SMALL, steps)))
    return figures


def _planned(schedule: dict[str, Any], last_step: float) -> list[Series]:
    """The learning rate as it was planned, as far as the run has come."""
    pairs = [pair for pair in _pairs(schedule, "learning_rate") if all(map(words.is_number, pair))]
    points = [pair for pair in pairs if pair[0] <= last_step]
    return [Series("planned", points, look="dashed")] if points else []


def _moments(facts: Facts) -> str:
    """Epoch and data seen at every logged training step, for the line above the charts."""
    known = [r for r in facts.train if words.is_number(r.get("epoch")) or words.is_number(r.get(facts.unit))]
    stride = len(known) // 1000 + 1
    return json.dumps([[r["step"], r.get("epoch"), r.get(facts.unit)] for r in known[::stride]])


def _plan_rows(plan: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, origin) of every planned value; what the file holds besides them comes after, without an origin."""
    values = plan.get("values")
    planned = values if isinstance(values, dict) else {}
    rows = []
    for name, entry in planned.items():
        known = isinstance(entry, dict) and "value" in entry
        value, origin = (entry["value"], entry.get("origin") or "") if known else (entry, "")
        rows.append((name, words.any_json(value), str(origin)))
    return rows + [(name, words.any_json(value), "") for name, value in plan.items() if name != "values"]


def _yaml_line(line: str) -> tuple[str, str, str]:
    """(indent and dash, key with its colon, rest), so that the template can set keys apart and escape each."""
    body = line.lstrip(" -")
    key, colon, rest = body.partition(":")
    if not colon or not key.replace("_", "").isalnum() or (rest and rest[0] != " "):
        return line, "", ""
    return line[: len(line) - len(body)], key + colon, rest


@cache
def template(name: str) -> jinja2.Template:
    """A page of `templates/`, which escapes everything that is put into it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("launcher.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = ("number", "duration", "moment", "any_json", "short", "amount", "said", "title_of")
    environment.filters |= {name: getattr(words, name) for name in named}
    return environment.get_template(name)
