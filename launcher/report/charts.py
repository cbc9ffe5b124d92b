"""Curves as data for small SVG pictures: scales, ticks, paths, smoothing and the few points worth marking.

Pure geometry. The template draws it, the browser's script reads `hover`. A library would do more and cost more: an
interactive one adds four megabytes to each report, a static one has no read-out.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.report.words import number, short

MOST_POINTS_DRAWN = 800
TOP, BOTTOM, LEFT, RIGHT = 12, 30, 50, 16
LABEL_HEIGHT = 15

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One quantity over steps. look: 'line', 'dashed', or 'dots' (a line with a mark at each value)."""

    label: str
    points: Points
    look: str = "line"
    smooth: bool = False


@dataclass(frozen=True)
class Steps:
    """What all charts of a run have below them: the same steps, so that one looks straight down from chart to chart."""

    first: float
    last: float
    resumed_at: list[float]
    stages: list[tuple[float, str]] = field(default_factory=list)  # first step and name


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass
class Curve:
    label: str
    colour: int
    path: str
    pale_path: str = ""
    dashed: bool = False
    dots: list[tuple[float, float]] = field(default_factory=list)
    end: tuple[float, float] = (0.0, 0.0)
    end_text: str = ""
    end_text_y: float = 0.0


@dataclass
class Drawing:
    """All that the template needs to draw one chart, in pixels of its own view box."""

    width: int
    height: int
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    resumed_at: list[float]
    stages: list[tuple[float, str]]
    notes: list[str]
    hover: str


@dataclass(frozen=True)
class Scale:
    """Maps a value to a pixel, evenly or by its logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def draw(
    series: list[Series],
    size: tuple[int, int],
    steps: Steps,
    label_width: int = 0,
    colours: Sequence[int] | None = None,
) -> Drawing:
    """Lay out the series in one frame. `label_width` pixels at the right are kept for the names of the lines.

    `colours`: the number of each line's colour, where it is not that of its place.
    """
    width, height = size
    x = Scale(*_widened(steps.first, steps.last), LEFT, width - RIGHT - label_width)
    y, y_ticks, notes = _value_scale(series, height - BOTTOM, TOP)
    curves, hover = [], []
    for colour, one in zip(colours or range(len(series)), series, strict=True):
        curve, read_out, drawn_note = _curve(one, colour, x, y)
        curves.append(curve)
        hover.append(read_out)
        notes += drawn_note
    _spread_end_labels(curves, TOP + 4, height - BOTTOM)
    return Drawing(
        width=width,
        height=height,
        frame=(LEFT, TOP, x.end, height - BOTTOM),
        x_ticks=[Tick(x(t), short(t)) for t in ticks(x.low, x.high, (x.end - LEFT) / 75) if t == int(t)],
        y_ticks=y_ticks,
        curves=curves,
        resumed_at=[x(step) for step in steps.resumed_at if x.low < step < x.high],
        stages=[(x(step), name) for step, name in steps.stages if x.low <= step < x.high],
        notes=notes,
        hover=json.dumps({"low": x.low, "high": x.high, "left": LEFT, "right": x.end, "series": hover}),
    )


def smoothed(values: list[float]) -> list[float]:
    """The trend: medians of three, so that one spike leaves no tail, averaged with weights that fall off to both sides.

    Two-sided, because an average over the past alone runs behind wherever the curve is steep.
    """
    medians = _medians_of_three(values)
    keep = 1 - 2 / (min(max(3, len(values) // 50), 50) + 1)
    past, future = _decaying_sums(medians, keep), _decaying_sums(medians[::-1], keep)[::-1]
    return [
        (sum_before + sum_after - here) / (weight_before + weight_after - 1)
        for here, (sum_before, weight_before), (sum_after, weight_after) in zip(medians, past, future, strict=True)
    ]


def ticks(low: float, high: float, wanted: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], about `wanted` of them."""
    rough = (high - low) / max(wanted, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / rough)))
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _medians_of_three(values: list[float]) -> list[float]:
    return [statistics.median(values[max(0, i - 1) : i + 2]) for i in range(len(values))]


def _decaying_sums(values: list[float], keep: float) -> list[tuple[float, float]]:
    """At each position (sum of the values so far, sum of their weights); each step back weighs `keep` times as much."""
    total, weight, sums = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        sums.append((total, weight))
    return sums


def _value_scale(series: list[Series], bottom: float, top: float) -> tuple[Scale, list[Tick], list[str]]:
    values = [value for one in series for _, value in one.points]
    usual = max(max(_usual(one)) for one in series)
    low, high, notes = min(values), max(values), []
    if low > 0 and usual > 50 * statistics.median(values):
        scale = Scale(low / 1.1, high * 1.1, bottom, top, logarithmic=True)
        return scale, [Tick(scale(v), short(v)) for v in _powers(scale.low, scale.high)], ["logarithmic scale"]
    if high > 2 * usual > 0:
        # A lone spike must not flatten everything else. It is cut, and the note says so.
        spikes = sum(value > 1.3 * usual for value in values)
        notes = [f"{spikes} value{'s' if spikes > 1 else ''} above the frame, up to {number(high)}"]
        high = 1.3 * usual
    low, high = _widened(low, high)
    near_zero = 0 <= low < 0.35 * high
    margin = 0.06 * (high - low)
    scale = Scale(0.0 if near_zero else low - margin, high + margin, bottom, top)
    return scale, [Tick(scale(v), short(v)) for v in ticks(scale.low, scale.high, (bottom - top) / 48)], notes


def _usual(series: Series) -> list[float]:
    """The values without lone spikes; of an evaluation, where each value is a result of its own, all of them."""
    values = [value for _, value in series.points]
    return values if series.look == "dots" or len(values) < 12 else _medians_of_three(values)


def _powers(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 3) if len(exponents) < 4 else (1,)
    return [factor * 10.0**e for e in exponents for factor in factors if low <= factor * 10.0**e <= high]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range with room in it, even around a single value."""
    if high > low:
        return low, high
    room = abs(low) * 0.05 or 1.0
    return low - room, high + room


def _curve(series: Series, colour: int, x: Scale, y: Scale) -> tuple[Curve, dict[str, object], list[str]]:
    notes = []
    raw = [value for _, value in series.points]
    # Fewer than a dozen values are few enough to be read as they are.
    smooth = series.smooth and len(raw) >= 12
    shown = smoothed(raw) if smooth else raw
    chosen = _chosen(raw)
    if len(chosen) < len(raw):
        notes.append(f"{series.label}: {len(chosen):,} of {len(raw):,} values drawn, extremes kept")
    steps = [series.points[i][0] for i in chosen]
    across, up = [x(step) for step in steps], [y(shown[i]) for i in chosen]
    curve = Curve(series.label, colour, _path(across, up))
    curve.pale_path = _path(across, [y(raw[i]) for i in chosen]) if smooth else ""
    curve.dashed = series.look == "dashed"
    curve.dots = list(zip(across, up, strict=True)) if series.look == "dots" or len(chosen) == 1 else []
    curve.end, curve.end_text_y = (across[-1], up[-1]), up[-1]
    curve.end_text = ("≈ " if smooth else "") + number(shown[-1])
    values = {"value": [_digits(raw[i]) for i in chosen]} | (
        {"smooth": [_digits(shown[i]) for i in chosen]} if smooth else {}
    )
    return curve, {"label": series.label, "colour": colour, "step": steps, "y": up, **values}, notes


def _chosen(values: list[float]) -> list[int]:
    """Positions to draw: all, or of each stretch the lowest and highest, so that no spike is lost; and the two ends."""
    if len(values) <= MOST_POINTS_DRAWN:
        return list(range(len(values)))
    stretch = math.ceil(2 * len(values) / MOST_POINTS_DRAWN)
    chosen = {0, len(values) - 1}
    for begin in range(0, len(values), stretch):
        part = range(begin, min(begin + stretch, len(values)))
        chosen |= {min(part, key=values.__getitem__), max(part, key=values.__getitem__)}
    return sorted(chosen)


def _path(across: list[float], up: list[float]) -> str:
    return "M" + "L".join(f"{px:g},{py:g}" for px, py in zip(across, up, strict=True))


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _spread_end_labels(curves: list[Curve], top: float, bottom: float) -> None:
    """Move the names at the ends of the lines apart, so that two lines that end together stay readable."""
    floor = top
    for curve in sorted(curves, key=lambda c: c.end[1]):
        curve.end_text_y = floor = max(curve.end[1], floor)
        floor += LABEL_HEIGHT * 2 + 4
    over = max((curve.end_text_y - (bottom - LABEL_HEIGHT) for curve in curves), default=0.0)
    if over > 0:
        for curve in curves:
            curve.end_text_y -= over
