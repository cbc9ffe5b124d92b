"""A sweep's pictures as numbers for small SVG drawings: parallel coordinates of its trials, and the metric over them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.report.charts import Scale, Tick, ticks
from launcher.report.words import is_number, short

WIDTH, HEIGHT = 1080, 400
TOP, BOTTOM, SIDE = 46, 26, 70
HISTORY_HEIGHT, LEFT = 300, 60
LABEL_LETTERS = 18
MOST_MARKED = 8  # values of a range with a step that are all written at its axis
FAR_APART = 50  # greatest over least value, from which on a metric is drawn by its logarithm


@dataclass(frozen=True)
class Axis:
    name: str
    x: float
    ticks: list[Tick]


@dataclass(frozen=True)
class Line:
    """A trial. `shade`: 0 for the worst to 1 for the best of those that have a value."""

    number: int
    state: str
    path: str
    shade: float
    is_best: bool
    said: str


@dataclass(frozen=True)
class Coordinates:
    width: int
    height: int
    top: float
    bottom: float
    axes: list[Axis]
    lines: list[Line]


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    state: str
    is_best: bool
    said: str


@dataclass(frozen=True)
class History:
    width: int
    height: int
    frame: tuple[float, float, float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot]
    best_path: str


def coordinates(found: Mapping[str, Any]) -> Coordinates:
    """`found` is sweep.json. The best trials are drawn last, on top of the others."""
    trials = [one for one in found["trials"] if one["state"] != "open"]
    bottom, top = HEIGHT - BOTTOM, TOP
    placed = [(key, *_of_key(space, trials, key, bottom, top)) for key, space in found["space"].items()]
    values = [one["value"] for one in trials if is_number(one["value"])]
    metric, metric_ticks = _of_metric(values, bottom, top)
    named = [*placed, (found["metric"], metric, metric_ticks)]
    gap = (WIDTH - 2 * SIDE) / max(1, len(named) - 1)
    axes = [Axis(name, SIDE + gap * place, marks) for place, (name, _, marks) in enumerate(named)]
    shades = _shades(trials, found["greater_is_better"])
    best = found["best"]["number"] if found["best"] else None
    lines = []
    for one in sorted(trials, key=lambda one: (one["number"] == best, one["state"] == "done", shades[one["number"]])):
        heights = [position(one["values"][name]) for name, position, _ in placed if name in one["values"]]
        heights += [metric(one["value"])] if is_number(one["value"]) else []
        points = [(axis.x, height) for axis, height in zip(axes, heights, strict=False)]
        lines.append(
            Line(
                one["number"],
                one["state"],
                _path(points),
                shades[one["number"]],
                one["number"] == best,
                _said(one, found),
            )
        )
    return Coordinates(WIDTH, HEIGHT, top, bottom, axes, lines)


def history(found: Mapping[str, Any]) -> History | None:
    """None before any trial has a value."""
    trials = [one for one in found["trials"] if is_number(one["value"]) and one["state"] != "open"]
    if not trials:
        return None
    bottom, right = HISTORY_HEIGHT - 34, WIDTH - 16
    last = max(1, found["trials"][-1]["number"])
    x = Scale(-0.02 * last, last * 1.02, LEFT, right)
    y, y_ticks = _of_metric([one["value"] for one in trials], bottom, 12)
    best = found["best"]["number"] if found["best"] else None
    dots = [
        Dot(x(one["number"]), y(one["value"]), one["state"], one["number"] == best, _said(one, found)) for one in trials
    ]
    return History(
        WIDTH,
        HISTORY_HEIGHT,
        (LEFT, 12, right, bottom),
        [Tick(x(at), short(at)) for at in ticks(0, last, 14) if at == int(at)],
        y_ticks,
        dots,
        _best_so_far(trials, found["greater_is_better"], x, y, right),
    )


def _best_so_far(trials: Sequence[Mapping[str, Any]], greater: bool, x: Scale, y: Scale, right: float) -> str:
    """A stair of the best value up to each trial, of those that came to their end."""
    words, best = "", None
    for one in trials:
        if one["state"] != "done":
            continue
        if best is None:
            words = f"M{x(one['number']):g},{y(one['value']):g}"
        if best is None or (one["value"] > best if greater else one["value"] < best):
            best = one["value"]
            words += f"H{x(one['number']):g}V{y(best):g}"
    return f"{words}H{right:g}" if words else ""


def _of_key(
    space: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], key: str, bottom: float, top: float
) -> tuple[Callable[[Any], float], list[Tick]]:
    if space["values"] is not None:
        names = [json.dumps(value, ensure_ascii=False) for value in space["values"]]
        gap = (bottom - top) / max(1, len(names) - 1)
        heights = {name: round(bottom - gap * place, 1) for place, name in enumerate(names)}
        marks = [Tick(height, _shortened(name.strip('"'))) for name, height in heights.items()]
        return lambda value: heights[json.dumps(value, ensure_ascii=False)], marks
    scale = Scale(space["low"], space["high"], bottom, top, logarithmic=space["log"])
    low, step = space["low"], space["step"]
    stepped = [] if not step else [low + step * place for place in range(int((space["high"] - low) / step + 1e-9) + 1)]
    few = stepped if len(stepped) <= MOST_MARKED else []
    found = few or (_powers(scale) if space["log"] else ticks(scale.low, scale.high, 6))
    return scale, [Tick(scale(at), short(at)) for at in found]


def _of_metric(values: Sequence[float], bottom: float, top: float) -> tuple[Scale, list[Tick]]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low > 0 and high > FAR_APART * low:
        scale = Scale(low / 1.1, high * 1.1, bottom, top, logarithmic=True)
        return scale, [Tick(scale(at), short(at)) for at in _powers(scale)]
    room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    scale = Scale(low - room, high + room, bottom, top)
    return scale, [Tick(scale(at), short(at)) for at in ticks(scale.low, scale.high, 6)]


def _powers(scale: Scale) -> list[float]:
    exponents = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    factors = (1, 3) if len(exponents) < 5 else (1,)
    marks = [factor * 10.0**power for power in exponents for factor in factors]
    return [mark for mark in marks if scale.low * (1 - 1e-9) <= mark <= scale.high * (1 + 1e-9)]


def _shades(trials: Sequence[Mapping[str, Any]], greater: bool) -> dict[int, float]:
    """By rank: one value that is far off leaves the others apart."""
    valued = sorted((one["value"] for one in trials if is_number(one["value"])), reverse=not greater)
    most = max(1, len(valued) - 1)
    return {one["number"]: valued.index(one["value"]) / most if is_number(one["value"]) else 0.0 for one in trials}


def _said(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    values = ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in one["values"].items())
    came_to = f"{found['metric']} {one['value']:.4g}" if is_number(one["value"]) else one["state"]
    return f"trial {one['number']} ({one['state']}): {came_to}; {values}"


def _shortened(text: str) -> str:
    return text if len(text) <= LABEL_LETTERS else f"{text[: LABEL_LETTERS - 1]}…"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if points else ""
