"""Sources and targets to rows of token ids, and rows to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from launcher.data.context import Context, Tools
from launcher.data.labels import IGNORED
from launcher.data.prepare import Columns
from launcher.errors import DataError

COLUMNS = Columns({"input_ids": "ints", "labels": "ints", "tokens": "int"}, length="tokens")


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    data = tools.data
    for name in ("source", "target"):
        if not example[name].strip():
            raise DataError(f"the {name} is empty", where=where, fix="mend the row, or set data.on_error: skip")
    source = _fitted("source", {"text": data.source_prefix + example["source"]}, data.max_length, tools, where)
    target = _fitted("target", {"text_target": example["target"]}, data.max_target_length, tools, where)
    if source is None or target is None:
        return
    if tools.processor.eos_token_id not in (None, *target):
        tools.count("targets without the token that ends an answer")
    tools.count("rows kept")
    tools.count("source tokens", len(source))
    tools.count("target tokens", len(target))
    yield {"input_ids": source, "labels": target, "tokens": len(source) + len(target)}


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    """input_ids, attention_mask (rows, longest source) and labels (rows, longest target), int64, padded on the right.

    Without rows, one row that counts nothing: a rank that has nothing to do still takes part.
    """
    found = [read(int(index), ["input_ids", "labels"]) for unit in units for index in unit]
    return {
        **sources([row["input_ids"] for row in found], context.pad_token_id),
        "labels": padded([row["labels"] for row in found], IGNORED),
    }


def sources(ids: Sequence[Any], pad_token_id: int) -> dict[str, torch.Tensor]:
    mask = padded([np.ones(len(row), np.int64) for row in ids], 0)
    mask[:, 0] = 1  # a row that sees nothing at all would be softmax over nothing: NaN
    return {"input_ids": padded(ids, pad_token_id), "attention_mask": mask}


def padded(ids: Sequence[Any], filler: int) -> torch.Tensor:
    batch = np.full((max(1, len(ids)), max(map(len, ids), default=1)), filler)
    for number, row in enumerate(ids):
        batch[number, : len(row)] = row
    return torch.from_numpy(batch)


def tokenised(tokenizer: Any, text: Mapping[str, str], limit: int) -> tuple[list[int], int]:
    """Token ids, special tokens included, cut to `limit`; and how many there were. `text`: {"text": ...} or {"text_target": ...}.

    A target is told from a source, since some tokenizers have a vocabulary for each.
    """
    ids: list[int] = tokenizer(**text, verbose=False)["input_ids"]
    if len(ids) <= limit:
        return ids, len(ids)
    return tokenizer(**text, verbose=False, truncation=True, max_length=limit)["input_ids"], len(ids)


def _fitted(name: str, text: Mapping[str, str], limit: int, tools: Tools, where: str) -> list[int] | None:
    """The tokens of a source or a target as `data.on_truncate` has them; None where the row is dropped."""
    ids, length = tokenised(tools.processor, text, limit)
    if not ids:
        raise DataError(f"no token is left of the {name}", where=where, fix="mend it, or set data.on_error: skip")
    if length <= limit:
        return ids
    key = "max_length" if name == "source" else "max_target_length"
    if tools.on_truncate == "error":
        raise DataError(
            f"the {name} has {length} tokens, more than data.{key} {limit}", where=where, fix="see data.on_truncate"
        )
    if tools.on_truncate == "split":
        raise DataError(
            f"a {name} cannot be split into several rows", where=where, fix="set data.on_truncate: truncate or drop"
        )
    if tools.on_truncate == "drop":
        tools.count(f"rows dropped as their {name} is too long")
        return None
    tools.count(f"{name}s truncated")
    return ids
