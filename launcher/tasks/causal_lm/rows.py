"""Examples to rows of token ids, and rows to batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.data import collate as tensors
from launcher.data import render
from launcher.errors import DataError
from launcher.schema import Data

# Where the recipe does not say. The first name that an example has tells its kind; a completion may be turns, too.
LOSS_ON = {"completion_turns": "completion", "messages": "assistant", "completion": "completion", "text": "all"}


@dataclass
class Tools:
    """What turning examples into rows needs. `counts` is written: rows read, kept, dropped, truncated; tokens."""

    tokenizer: Any
    data: Data
    counts: dict[str, int]

    def count(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


def rows(where: str, example: dict[str, Any], tools: Tools) -> Iterator[dict[str, list[int]]]:
    """The rows of one example (several only for text under `on_truncate: split`): `input_ids` and `trained`."""
    tools.count("rows read")
    kind = next(name for name in LOSS_ON if name in example)
    tokens = _render(where, example, tools, tools.data.loss_on or LOSS_ON[kind])
    for piece in _fitted(where, tokens, tools, is_text=kind == "text"):
        if not any(piece.trained[1:]):
            tools.count("rows dropped without a token to train on")
            continue
        tools.count("rows kept")
        tools.count("tokens", len(piece.ids))
        tools.count("trained tokens", sum(piece.trained[1:]))
        yield {"input_ids": piece.ids, "trained": piece.trained}


def collate(
    units: Sequence[Sequence[int]],
    read: Callable[[int], tensors.Row],
    pad_token_id: int,
    packing: bool,
    flat: bool = False,
) -> tensors.Batch:
    if packing:
        return tensors.packed(units, read, pad_token_id, flat)
    return tensors.padded(units, read, pad_token_id)


def _render(where: str, example: dict[str, Any], tools: Tools, loss_on: str) -> render.Tokens:
    if "messages" in example:
        functions = example.get("tools")
        if functions and "tools" not in str(tools.tokenizer.chat_template):
            tools.count("rows whose tools the chat template leaves out")
        turns = example.get("completion_turns", 1)
        return render.chat(example["messages"], tools.tokenizer, loss_on, where, turns, functions)
    if "completion" in example:
        return render.prompt_completion(example["prompt"], example["completion"], tools.tokenizer, loss_on)
    return render.text(example["text"], tools.tokenizer)


def _fitted(where: str, tokens: render.Tokens, tools: Tools, is_text: bool) -> Iterator[render.Tokens]:
    """What `data.on_truncate` leaves of a row that is longer than `data.max_length`."""
    limit, length = tools.data.max_length, len(tokens.ids)
    policy = tools.data.on_truncate
    if length <= limit:
        yield tokens
    elif policy == "error":
        raise DataError(f"{length} tokens, more than data.max_length {limit}", where=where, fix="see data.on_truncate")
    elif policy == "drop":
        tools.count("rows dropped as too long")
    elif policy == "truncate":
        tools.count("rows truncated")
        yield render.Tokens(tokens.ids[:limit], tokens.trained[:limit])
    elif not is_text:
        raise DataError(
            "only plain text can be split into several rows", where=where, fix="set data.on_truncate: truncate or drop"
        )
    else:
        tools.count("rows split")
        # A piece begins with the last token of the one before, which gives its first target something to follow from.
        for start in range(0, length - 1, max(1, limit - 1)):
            yield render.Tokens(tokens.ids[start : start + limit], tokens.trained[start : start + limit])
