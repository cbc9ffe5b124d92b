"""Labelled sounds to rows, and rows to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launcher.data import labels, sounds
from launcher.data.context import Context, Tools
from launcher.data.pictures import each
from launcher.data.prepare import Columns
from launcher.errors import DataError

COLUMNS = Columns({**sounds.KINDS, "labels": "texts", "several": "int", "where": "text"}, length="samples")


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    given, several = labels.of_row(example.get("label"), tools, where) if tools.labelled else ([], False)
    rate = tools.processor.sampling_rate
    audio, seconds = sounds.first_read(example["audio"], rate, where)
    limit = max_seconds(tools)
    if limit is not None and seconds > limit:
        if not _is_kept(seconds, limit, tools, where):
            return
        audio["samples"] = round(limit * rate)
    if audio["samples"] < sounds.shortest(rate):
        tools.count(f"rows filled up with silence to {sounds.SHORTEST_SECONDS} seconds")
    tools.count("rows kept")
    yield {**audio, "labels": given, "several": int(several), "where": where}


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: the names of the labels, and whether a sound may have several."""
    return labels.head(train, context)


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    found = [read(int(index)) for unit in units for index in unit]
    rate, limit = context.processor.sampling_rate, max_seconds(context)
    heard = each(lambda row: sounds.read(row, rate, limit), found)
    return {
        **sounds.together(heard, context.processor),
        "labels": labels.targets([row["labels"] for row in found], context),
    }


def max_seconds(given: Tools | Context) -> float | None:
    """Of the recipe and of the model, the shorter."""
    limits = (given.data.max_seconds, sounds.heard_seconds(given.processor))
    return min((limit for limit in limits if limit is not None), default=None)


def _is_kept(seconds: float, limit: float, tools: Tools, where: str) -> bool:
    """What `data.on_truncate` makes of a sound that is too long: of one that is kept, the beginning is."""
    if tools.on_truncate in ("error", "split"):
        asked = "see data.on_truncate" if tools.on_truncate == "error" else "set data.on_truncate: truncate or drop"
        problem = "" if tools.on_truncate == "error" else ", and a sound cannot be split into several rows"
        raise DataError(f"{seconds:.2f} seconds, more than {limit:g}{problem}", where=where, fix=asked)
    tools.count("rows dropped as too long" if tools.on_truncate == "drop" else "rows truncated")
    return tools.on_truncate == "truncate"
