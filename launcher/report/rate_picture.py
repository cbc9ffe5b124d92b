"""The picture of a learning-rate range test: loss over the logarithm of the learning rate, as one SVG file."""

import math
from collections.abc import Sequence
from html import escape

from launcher.report.charts import Points, Scale, ticks
from launcher.report.words import short

WIDTH, HEIGHT = 720, 400
TOP, BOTTOM, LEFT, RIGHT = 40, 50, 60, 20
STYLE = (
    "text{font:13px sans-serif;fill:#1d2226}.grid{stroke:#e4e2dc}path{fill:none;stroke:#0072b2;stroke-width:2}"
    ".pale{opacity:.35;stroke-width:1}.mark{stroke:#c24f00;stroke-dasharray:4 3}"
)


def svg(raw: Points, smoothed: Points, marks: Sequence[tuple[str, float]]) -> str:
    """`raw`, `smoothed`: (learning rate, loss); `marks`: (name, learning rate) of the suggestions. Not empty."""
    rates, losses = [rate for rate, _ in smoothed], sorted(loss for _, loss in raw)
    usual = losses[: max(1, math.ceil(0.95 * len(losses)))]  # an explosion must not flatten everything else
    low, high = losses[0], max(usual[-1], *(loss for _, loss in smoothed))
    room = (high - low) * 0.05 or 1.0
    x = Scale(rates[0], max(rates[-1], rates[0] * 1.01), LEFT, WIDTH - RIGHT, logarithmic=True)
    y = Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)
    parts = [
        *(_across(y(value), short(value)) for value in ticks(y.low, y.high, 6)),
        *(_below(x(10.0**power), f"1e{power}") for power in _powers(x.low, x.high)),
        f'<path class="pale" d="{_path(raw, x, y)}"/><path d="{_path(smoothed, x, y)}"/>',
        *(_mark(x(rate), f"{name} {rate:.1e}", TOP - 22 + 16 * row) for row, (name, rate) in enumerate(marks)),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">learning rate (pale: loss; line: smoothed loss)</text>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return "\n".join(
        [head, f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"]
    )


def _powers(low: float, high: float) -> range:
    return range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)


def _path(points: Points, x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(rate):g},{y(loss):g}" for rate, loss in points)


def _across(at: float, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
    return f'{line}<text x="{LEFT - 8}" y="{at}" dy="0.34em" text-anchor="end">{text}</text>'


def _below(at: float, text: str) -> str:
    line = f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text x="{at}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'


def _mark(at: float, text: str, text_y: float) -> str:
    line = f'<line class="mark" x1="{at}" x2="{at}" y1="{TOP - 2}" y2="{HEIGHT - BOTTOM}"/>'
    anchor = "end" if at > WIDTH / 2 else "start"
    return f'{line}<text x="{at}" y="{text_y}" text-anchor="{anchor}">{escape(text)}</text>'
