"""A report as Markdown tables and as a drawing, both from the JSON alone."""

import html
import math
from typing import Any

COLUMNS = {
    "ms": lambda n: f"{n['forward_backward_ms']['p50']:,.1f}",
    "time / unfused": lambda n: "" if n["time_ratio"] is None else f"{n['time_ratio']:.2f}",
    "processor time / unfused": lambda n: f"{n['processor_time_ratio']:.2f}" if n.get("processor_time_ratio") else "",
    "forward ms": lambda n: f"{n['forward_ms']['p50']:,.1f}" if "forward_ms" in n else "",
    "TFLOP/s": lambda n: f"{n['tflops']:.3g}" if "tflops" in n else "",
    "GB/s": lambda n: f"{n['gb_per_s']:,.1f}" if "gb_per_s" in n else "",
    "extra MiB": lambda n: f"{n['extra_bytes'] / 2**20:,.1f}",
    "error of dW": lambda n: f"{n['error']['weight']:.1e}" if "weight" in n["error"] else "",
    "of dB (LoRA)": lambda n: f"{n['error']['B']:.1e}" if "B" in n["error"] else "",
    "of dx": lambda n: f"{n['error']['x']:.1e}",
    "of the loss": lambda n: f"{n['error']['loss']:.1e}",
    "first call, s": lambda n: f"{n['first_call_s']:.2g}",
}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 620, 340, 70, 46, 50, 210
PANELS = 6
STYLE = """text { font: 12px sans-serif; fill: #444 } .title { font-weight: 600; font-size: 13px }
text.ours { fill: #c2410c; font-weight: 600 } circle { fill: #64748b } circle.ours { fill: #c2410c }
line { stroke: #ccc } .end { text-anchor: end } .middle { text-anchor: middle }
@media (prefers-color-scheme: dark) {
text { fill: #ccc } text.ours, circle.ours { fill: #fb923c } line { stroke: #555 } }"""


# --- tables ---


def markdown(report: dict[str, Any]) -> str:
    tables = [_table(case) for case in report["cases"]]
    return "\n\n".join([*tables, *_remarks(report), _where(report)])


def _table(case: dict[str, Any]) -> str:
    """A column that is empty for all is left out."""
    measured = {name: n for name, n in case["providers"].items() if "forward_backward_ms" in n}
    title = f"**{case['name']}**" + ("" if case["complete"] else " (incomplete)")
    if not measured:
        return f"{title}: {case.get('failed', 'nothing was measured')}"
    cells = {label: [show(n) for n in measured.values()] for label, show in COLUMNS.items()}
    cells = {"provider": [f"**{name}**" if _is_ours(name) else name for name in measured]} | {
        label: column for label, column in cells.items() if any(column)
    }
    rows = [list(cells), ["---"] * len(cells), *zip(*cells.values(), strict=True)]
    return "\n".join([title, "", *(f"| {' | '.join(row)} |" for row in rows)])


def _remarks(report: dict[str, Any]) -> list[str]:
    """Who is missing, each reason once, and what time did not reach."""
    missing: dict[str, list[str]] = {}
    for case in report["cases"]:
        for name, numbers in case["providers"].items():
            if reason := numbers.get("skipped") or numbers.get("failed"):
                names = missing.setdefault(reason, [])
                names.extend([name] if name not in names else [])
    lines = [f"* {', '.join(names)}: {reason}" for reason, names in missing.items()]
    lines += [f"* {name}: {reason}" for name, reason in report["skipped"].items()]
    return ["Not measured:\n\n" + "\n".join(lines)] if lines else []


def _where(report: dict[str, Any]) -> str:
    m, v = report["machine"], report["versions"]
    place = f"{m['gpu']}, CUDA {m['cuda']}" if "gpu" in m else f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads"
    libraries = ", ".join(f"{name} {number}" for name, number in v.items() if number)
    return f"{place}; {libraries}; {report['date']}. Extra memory is beyond inputs and returned gradients."


def _is_ours(name: str) -> bool:
    return name.startswith("ours")


# --- drawing ---


def plot(report: dict[str, Any]) -> str:
    """Time against memory, one panel for each of the first cases, as SVG."""
    drawn = [panel for case in report["cases"] if (panel := _panel(case))][:PANELS]
    rows = -(-len(drawn) // 2)
    moved = (f'<g transform="translate({i % 2 * WIDTH} {i // 2 * HEIGHT})">{p}</g>' for i, p in enumerate(drawn))
    size = f'viewBox="0 0 {min(2, len(drawn)) * WIDTH} {rows * HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n' + "\n".join(moved) + "\n</svg>\n"
    )


def _panel(case: dict[str, Any]) -> str:
    points = {
        name: (n["extra_bytes"] / 2**20, n["forward_backward_ms"]["p50"])
        for name, n in case["providers"].items()
        if case["hidden"] and "forward_backward_ms" in n
    }
    if not points:
        return ""
    across = Axis([x for x, _ in points.values()], LEFT, WIDTH - RIGHT)
    upwards = Axis([y for _, y in points.values()], HEIGHT - BOTTOM, TOP)
    parts = [_text(LEFT, 20, case["name"], "title")]
    parts += [_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "extra memory, MiB", "middle"), _text(8, TOP - 8, "ms")]
    for tick in across.ticks():
        x = across.place(tick)
        parts += [_line(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 16, f"{tick:,g}", "middle")]
    for tick in upwards.ticks():
        y = upwards.place(tick)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 6, y + 4, f"{tick:,g}", "end")]
    return "\n".join(parts + _dots({name: (across.place(x), upwards.place(y)) for name, (x, y) in points.items()}))


class Axis:
    """Logarithmic, from a little below the least value to a little above the largest."""

    def __init__(self, values: list[float], start: float, end: float):
        self.low, self.high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        return self.start + (self.end - self.start) * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2 else (1,)
        return [s * 10.0**d for d in decades for s in steps if self.low <= math.log10(s * 10.0**d) <= self.high]


def _dots(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names stand to the right of their dots, moved down where they would cover another."""
    parts, taken = [], []
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        kind, level = ("ours" if _is_ours(name) else ""), y
        while any(abs(level - other) < 13 and abs(x - beside) < 170 for beside, other in taken):
            level += 2
        taken.append((x, level))
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        parts.append(_text(x + 8, level + 4, name, kind))
    return parts


def _text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{html.escape(content)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
