"""Examples to rows of token ids, and rows to batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from launcher.data import collate as tensors
from launcher.data import render
from launcher.data.context import Context, Tools
from launcher.data.prepare import Columns
from launcher.errors import DataError

COLUMNS = Columns({"input_ids": "ints", "trained": "ints"}, length="input_ids")

# Where the recipe does not say. The first name that an example has tells its kind; a completion may be turns, too.
LOSS_ON = {"completion_turns": "completion", "messages": "assistant", "completion": "completion", "text": "all"}


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
    read: Callable[[int], dict[str, Any]],
    context: Context,
    packing: bool = False,
    flat: bool = False,
) -> tensors.Batch:
    """Rows as a batch, padded or packed. `flat`: all in one long row, for attention of variable lengths."""

    def tokens(index: int) -> tensors.Row:
        row = read(index)
        return row["input_ids"], row["trained"]

    if packing:
        return tensors.packed(units, tokens, context.pad_token_id, flat)
    return tensors.padded(units, tokens, context.pad_token_id)


def _render(where: str, example: dict[str, Any], tools: Tools, loss_on: str) -> render.Tokens:
    if "messages" in example:
        functions = example.get("tools")
        if functions and "tools" not in str(tools.processor.chat_template):
            tools.count("rows whose tools the chat template leaves out")
        turns = example.get("completion_turns", 1)
        return render.chat(example["messages"], tools.processor, loss_on, where, turns, functions)
    if "completion" in example:
        return render.prompt_completion(example["prompt"], example["completion"], tools.processor, loss_on)
    return render.text(example["text"], tools.processor)


def _fitted(where: str, tokens: render.Tokens, tools: Tools, is_text: bool) -> Iterator[render.Tokens]:
    """What `data.on_truncate` leaves of a row that is longer than `data.max_length`."""
    limit, length = tools.data.max_length, len(tokens.ids)
    policy = tools.on_truncate
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
