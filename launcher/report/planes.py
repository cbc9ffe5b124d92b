"""Lines and points over two named axes, such as precision over recall: pure geometry, as in charts.py, but without steps."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from launcher.report.charts import Points, Scale, Tick, ticks
from launcher.report.words import short

WIDTH, HEIGHT = 400, 300
TOP, BOTTOM, LEFT, RIGHT = 12, 46, 56, 14
MOST_LINES = 10


@dataclass(frozen=True)
class PlaneLine:
    name: str
    colour: int  # 0 to 9: five colours, then the same five dashed
    path: str  # empty for points that no line joins
    dots: list[tuple[float, float]]  # of a line with a single point, or of points that no line joins


@dataclass(frozen=True)
class Plane:
    """All that the template needs, in pixels of its own view box."""

    title: str
    x_name: str
    y_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[PlaneLine]
    notes: list[str]
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


def plane(
    title: str, x_name: str, y_name: str, lines: Sequence[tuple[str, Points]], apart: Collection[str] = ()
) -> Plane:
    """Axes from 0 to 1, wider where a value lies outside; or as wide as the values, where no line joins some of the points: those
    of the lines named in `apart`. Values that are not finite are left out."""
    left, top, right, bottom = Plane.frame
    finite = [(name, [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]) for name, points in lines]
    filled = [(name, points) for name, points in finite if points]
    shown = filled[:MOST_LINES]
    whole = () if apart else (0.0, 1.0)
    x = _scale([*whole, *(a for _, points in shown for a, _ in points)], left, right)
    y = _scale([*whole, *(b for _, points in shown for _, b in points)], bottom, top)
    notes = [f"the first {MOST_LINES} of {len(filled)} lines"] if len(filled) > MOST_LINES else []
    notes += [f"{name or 'a line'}: no values" for name, points in finite if not points]
    drawn = [_line(name, colour, points, x, y, name in apart) for colour, (name, points) in enumerate(shown)]
    return Plane(title, x_name, y_name, _ticks(x, 6), _ticks(y, 6), drawn, notes)


def _scale(values: list[float], start: float, end: float) -> Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return Scale(low, high if high > low else low + 1, start, end)


def _ticks(scale: Scale, wanted: int) -> list[Tick]:
    return [Tick(scale(value), short(value)) for value in ticks(scale.low, scale.high, wanted)]


def _line(name: str, colour: int, points: Points, x: Scale, y: Scale, apart: bool) -> PlaneLine:
    pixels = [(x(a), y(b)) for a, b in points]
    path = "" if apart else "M" + "L".join(f"{across:g},{up:g}" for across, up in pixels)
    return PlaneLine(name, colour, path, pixels if apart or len(pixels) == 1 else [])
