"""How numbers, times and changes are written for a reader: four significant digits, units, a real minus sign."""

import json
import math
from datetime import UTC, datetime
from typing import Any

from launcher import metrics

LOWER_IS_BETTER = metrics.LOWER_IS_BETTER | {"error"}
# Names that are no words, as the field writes them.
SPELLED = {
    "f1": "F1", "mcc": "MCC", "auroc": "AUROC", "mse": "MSE", "mae": "MAE", "rmse": "RMSE", "r2": "R²", "bleu": "BLEU",
    "chrf": "chrF", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougel": "ROUGE-L", "rougelsum": "ROUGE-Lsum",
    "map": "mAP", "mar": "mAR", "ap": "AP", "ar": "AR", "iou": "IoU", "gib": "(GiB)",
}  # fmt: skip
TITLES = {
    "map": "mAP 50:95",
    "ap": "AP 50:95",
    "grad_norm": "Gradient norm",
}
NOTHING = "–"


def is_number(value: Any) -> bool:
    """True for a finite number; booleans, NaN and infinity are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> str:
    """2.1034 -> 2.103, 40960 -> 40,960, 0.0002 -> 2e-4; what is not a number comes back as text."""
    if not is_number(value):
        return NOTHING if value is None else str(value)
    if isinstance(value, int) or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "−")
    if value and not 1e-3 <= abs(value) < 1e15:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", "−")
    power = int(f"{value:.3e}".partition("e")[2])  # after rounding: 0.99999 is written 1.000
    return f"{value:.{max(0, 3 - power)}f}".replace("-", "−") if value else "0"


def short(value: float) -> str:
    """Four characters or so for an axis or a table cell: 40960 -> 41k, 1.2e6 -> 1.2M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}".replace("-", "−")
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min" if hours < 48 else f"{hours / 24:.1f} days"


def moment(unix_seconds: float | None) -> str:
    """A time that means the same to every reader: 2026-03-02 14:05 UTC."""
    if not is_number(unix_seconds):
        return NOTHING
    return datetime.fromtimestamp(unix_seconds or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")


def percent(before: float, after: float) -> str:
    """The relative change with its sign; a dash where there is nothing to be relative to."""
    if not before:
        return NOTHING
    share = (after - before) / abs(before) * 100
    return f"{share:+.1f}\u202f%".replace("-", "−") if abs(share) < 1000 else f"×{number(after / before)}"


def lower_is_better(metric: str) -> bool:
    return not LOWER_IS_BETTER.isdisjoint(metric.replace("/", "_").split("_"))


def title_of(metric: str) -> str:
    """eval/token_f1 -> Token F1."""
    name = metric.partition("/")[2] or metric
    if name in TITLES:
        return TITLES[name]
    first, *rest = name.replace("/", " ").replace("_", " ").split(" ")
    return " ".join([SPELLED.get(first.lower(), first[:1].upper() + first[1:]), *(SPELLED.get(w, w) for w in rest)])


def amount(value: float, unit: str) -> str:
    """How much a run has seen: 41k images."""
    return f"{short(value)} {unit}"


def said(value: Any) -> str:
    """An answer of the data or the model as one reads it: several labels with commas, none as a dash."""
    if isinstance(value, list | tuple):
        return ", ".join(said(one) for one in value) if value else "(none)"
    return number(value) if value is None or is_number(value) else any_json(value)


def any_json(value: Any) -> str:
    """A value of a JSON file as one reads it: text as it is, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    return json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict) and len(value) > 3 else None)
