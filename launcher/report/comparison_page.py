"""The page of `launcher compare`: the tables, and each metric's curves of all runs in one chart."""

from collections.abc import Sequence

from launcher.report import words
from launcher.report.charts import Series, Steps, draw
from launcher.report.comparison import Compared, differences, rows
from launcher.report.facts import values_of
from launcher.report.page import Figure, template

SIZE = (1080, 330)
MOST_RUNS = 12  # that colours and dashes tell apart
OF_TRAINING = ("train/loss", "train/learning_rate")


def render(runs: Sequence[Compared], left_out: Sequence[str]) -> str:
    """`left_out`: sentences about what was named and is no run."""
    shown = runs[:MOST_RUNS]
    return template("compare.html").render(
        runs=runs,
        shown=shown,
        left_out=left_out,
        unreadable=[f"{one.path}: {sentence}" for one in runs for sentence in one.unreadable],
        differences=differences(runs),
        rows=rows(runs),
        figures=list(filter(None, (_figure(metric, shown) for metric in _metrics(shown)))),
    )


def _metrics(runs: Sequence[Compared]) -> list[str]:
    """Training loss, then evaluations as they were measured, then the learning rate."""
    evaluated = dict.fromkeys(name for one in runs for name in one.metrics if name.startswith("eval/"))
    return [OF_TRAINING[0], *evaluated, *OF_TRAINING[1:]]


def _figure(metric: str, runs: Sequence[Compared]) -> Figure | None:
    """None where no run has it. A run without it keeps its colour: its curve is left out, and no other takes its place."""
    evaluated = metric.startswith("eval/")
    found = [
        (place, Series(one.label, points, "dots" if evaluated else "line", smooth=metric == "train/loss"))
        for place, one in enumerate(runs)
        if (points := values_of(one.facts.evaluations if evaluated else one.facts.train, metric))
    ]
    if not found:
        return None
    last = max(step for _, series in found for step, _ in series.points)
    drawing = draw([series for _, series in found], SIZE, Steps(0, last, []), colours=[place for place, _ in found])
    title = {"train/loss": "Training loss", "eval/loss": "Evaluation loss"}.get(metric, words.title_of(metric))
    return Figure(metric, title, drawing)
