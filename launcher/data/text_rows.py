"""One text, or a pair of them, as a row of token ids; and such rows as a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from launcher.data.context import Tools
from launcher.errors import DataError

INPUTS = {"input_ids": "ints", "token_type_ids": "ints"}  # columns of prepared rows


def tokenised(text: str, pair: str | None, tools: Tools, where: str) -> dict[str, list[int]] | None:
    """`INPUTS` of a text, special tokens included; None where it is too long and is dropped.

    Of a pair that is too long, the longer text is cut first.
    """
    options: dict[str, Any] = {"return_token_type_ids": True, "verbose": False}
    if not text.strip() or pair is not None and not pair.strip():
        raise DataError("a text is empty", where=where, fix="mend the row, or set data.on_error: skip")
    found = tools.processor(text, pair, **options)
    length, limit = len(found["input_ids"]), tools.data.max_length
    if length > limit:
        if tools.on_truncate == "error":
            raise DataError(
                f"{length} tokens, more than data.max_length {limit}", where=where, fix="see data.on_truncate"
            )
        if tools.on_truncate == "drop":
            tools.count("rows dropped as too long")
            return None
        tools.count("rows truncated")
        found = tools.processor(text, pair, truncation="longest_first", max_length=limit, **options)
    return {name: found[name] for name in INPUTS}


def padded(rows: Sequence[Mapping[str, Any]], context: Any) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and, where the model takes them, token_type_ids: (rows, longest) int64, padded on the right.

    Without rows, one row of padding: a rank that has nothing to do still takes part.
    """
    width = max((len(row["input_ids"]) for row in rows), default=1)
    shape = (max(1, len(rows)), width)
    batch = {"input_ids": np.full(shape, context.pad_token_id), "attention_mask": np.zeros(shape, np.int64)}
    if "token_type_ids" in context.processor.model_input_names:
        batch["token_type_ids"] = np.full(shape, context.processor.pad_token_type_id)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["attention_mask"][number, :length] = 1
        for name in INPUTS:
            if name in batch:
                batch[name][number, :length] = row[name]
    batch["attention_mask"][:, 0] = 1  # a row that sees nothing at all would be softmax over nothing: NaN
    return {name: torch.from_numpy(array.astype(np.int64, copy=False)) for name, array in batch.items()}


def shown(row: Mapping[str, Any]) -> str:
    """The text, or both, as people read them."""
    return f"{row['text']} | {row['text_pair']}" if row["text_pair"] else str(row["text"])
