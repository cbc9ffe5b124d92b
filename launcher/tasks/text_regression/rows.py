"""Texts with a number to rows of token ids, and rows to batches."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from launcher.data import text_rows
from launcher.data.context import Context, Tools
from launcher.data.prepare import Columns
from launcher.errors import DataError

COLUMNS = Columns(
    {**text_rows.INPUTS, "label": "floats", "text": "text", "text_pair": "text", "where": "text"}, length="input_ids"
)

LARGEST = float(torch.finfo(torch.float32).max)


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    text, pair = example["text"], example.get("text_pair")
    label = [number(example.get("label"), where)] if tools.labelled else []
    tokens = text_rows.tokenised(text, pair, tools, where)
    if tokens is None:
        return
    tools.count("rows kept")
    tools.count("tokens", len(tokens["input_ids"]))
    yield {**tokens, "label": label, "text": text, "text_pair": pair or "", "where": where}


def number(value: Any, where: str) -> float:
    """A label as a number that fp32 holds."""
    try:
        found = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not abs(found) <= LARGEST:
        raise DataError(
            f"a label must be a number of at most {LARGEST:.2g}, not {value!r}",
            where=where,
            fix="mend the row, or set data.on_error: skip",
        )
    return found


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: one output."""
    return {"num_labels": 1, "problem_type": "regression"}


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    found = [read(int(index), [*text_rows.INPUTS, "label"]) for unit in units for index in unit]
    values = [row["label"][0] if len(row["label"]) else math.nan for row in found] or [math.nan]
    return {**text_rows.padded(found, context), "labels": torch.tensor(values, dtype=torch.float32)}
