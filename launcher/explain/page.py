"""Explanations as a page of their own, and as lines on a screen."""

import base64
import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from launcher.explain.explainer import Explanation

WIDTH = 20  # of the longest bar on the screen
COLOURS = {True: "\x1b[34m", False: "\x1b[33m"}  # for and against; blue and orange are told apart by everyone
END = "\x1b[0m"


def html(explained: Sequence[Explanation], run: str) -> str:
    """One page without links to anything outside it."""
    pages = [_page(one) for one in explained]
    return str(_template().render(run=run, pages=pages))


def screen(one: Explanation, coloured: bool) -> Iterator[str]:
    """What was predicted and explained, then each word, cell row or stretch with a bar."""
    record = one.record
    yield f"{record['task']}: {record['input']}"
    chance = "" if record["probability"] is None else f", probability {record['probability']:.4f}"
    yield f"predicted: {record['predicted']}; explained: {record['explained']}{chance}"
    yield f"baseline: {record['baseline']}"
    yield (
        f"{record['output']:.4f} here, {record['baseline_output']:.4f} there; attributions add up to "
        f"{record['sum_of_attributions']:.4f} of {record['difference']:.4f}, off by {record['convergence_delta']:+.2g}"
    )
    yield from (f"note: {note}" for note in record["notes"])
    rows = _rows(record)
    most = max((abs(value) for _, value in rows), default=0.0) or 1.0
    for name, value in rows:
        bar = "█" * round(WIDTH * abs(value) / most)
        yield f"  {value:+9.4f}  {_painted(f'{bar:<{WIDTH}}', value, coloured)}  {name}"
    yield from one.warnings


def _rows(record: dict[str, Any]) -> list[tuple[str, float]]:
    """Names with attributions: words with their tokens where there are several, special tokens; seconds; rows of a picture."""
    if "tokens" in record:
        return [(_named(token), token["attribution"]) for token in record["tokens"]]
    if "seconds" in record:
        return [(f"{bin['start']:.1f}-{bin['end']:.1f} s", bin["attribution"]) for bin in record["seconds"]]
    number = len(record["cells"])
    return [(f"row {place + 1} of {number}, from the top", sum(row)) for place, row in enumerate(record["cells"])]


def _named(token: dict[str, Any]) -> str:
    return f"{token['token']}  (special)" if token["special"] else str(token["token"])


def _painted(text: str, value: float, coloured: bool) -> str:
    return f"{COLOURS[value > 0]}{text}{END}" if coloured else text


def _page(one: Explanation) -> dict[str, Any]:
    record = one.record
    rows = _rows(record)
    most = max((abs(value) for _, value in rows), default=0.0) or 1.0
    shades = [{"name": name, "value": value, "shade": abs(value) / most} for name, value in rows]
    return {
        "record": record,
        "rows": shades,
        "runs": [_runs(text, part, record) for part, text in enumerate(one.texts)],
        "seen": _as_data(one.seen),
        "overlay": _as_data(one.overlay),
        "warnings": one.warnings,
    }


def _runs(text: str, part: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The text cut into words and what is between them, each with a shade from 0 to 1 and a sign."""
    words = [word for word in record["words"] if word["part"] == part]
    most = max((abs(word["attribution"]) for word in record["words"]), default=0.0) or 1.0
    found, at = [], 0
    for word in words:
        found.append({"text": text[at : word["start"]], "value": None})
        value = word["attribution"]
        found.append({"text": text[word["start"] : word["end"]], "value": value, "shade": abs(value) / most})
        at = word["end"]
    return [*found, {"text": text[at:], "value": None}]


def _as_data(picture: Any) -> str | None:
    """A PNG in the page itself, large enough to look at."""
    if picture is None:
        return None
    factor = max(1, 384 // max(picture.size))
    content = io.BytesIO()
    picture.resize((picture.width * factor, picture.height * factor), 0).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


@cache
def _template() -> Any:
    import jinja2

    loader = jinja2.PackageLoader("launcher.explain", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "page.html"
    )
