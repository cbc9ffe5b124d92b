"""Labelled texts to rows of token ids, and rows to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launcher.data import labels, text_rows
from launcher.data.context import Context, Tools
from launcher.data.prepare import Columns

COLUMNS = Columns(
    {**text_rows.INPUTS, "labels": "texts", "several": "int", "text": "text", "text_pair": "text", "where": "text"},
    length="input_ids",
)


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    text, pair = example["text"], example.get("text_pair")
    given, several = labels.of_row(example.get("label"), tools, where) if tools.labelled else ([], False)
    tokens = text_rows.tokenised(text, pair, tools, where)
    if tokens is None:
        return
    tools.count("rows kept")
    tools.count("tokens", len(tokens["input_ids"]))
    yield {
        **tokens,
        "labels": given,
        "several": int(several),
        "text": text,
        "text_pair": pair or "",
        "where": where,
    }


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: the names of the labels, and whether a row may have several."""
    return labels.head(train, context)


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    found = [read(int(index), [*text_rows.INPUTS, "labels"]) for unit in units for index in unit]
    return {**text_rows.padded(found, context), "labels": labels.targets([row["labels"] for row in found], context)}
