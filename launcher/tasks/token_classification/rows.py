"""Tagged words to rows of token ids, and rows to batches. The tag stands on the first piece of a word, all else is ignored."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from launcher.data import text_rows
from launcher.data.context import Context, Tools
from launcher.data.labels import IGNORED
from launcher.data.prepare import Columns
from launcher.errors import DataError
from launcher.tasks.token_classification.windows import Window, windows

# A sentence is one row or, split, several that follow each other; all but the first continue it. `starts`: the place of each
# word's first piece, -1 without one. `text`: what the words were split from, in the first row; empty where words were given.
COLUMNS = Columns(
    {
        **text_rows.INPUTS,
        "starts": "ints",
        "tokens": "texts",
        "tags": "texts",
        "continues": "int",
        "text": "text",
        "where": "text",
    },
    length="input_ids",
)


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    words = example["text"].split() if "text" in example else list(example["tokens"])
    if not words:
        raise DataError("there are no words", where=where, fix="mend the row, or set data.on_error: skip")
    tags = _tags(example, tools, where) if tools.labelled else []
    shown = _readable(words, tools)
    parts = list(_parts(shown, tools, where))
    for number, part in enumerate(parts):
        own = slice(part.own_first, part.own_last)
        inputs, starts = _encoded(shown[part.first : part.last], tools)
        starts = starts[part.own_first - part.first : part.own_last - part.first]
        tools.count("tokens", len(inputs["input_ids"]))
        if -1 in starts:
            tools.count("words without a token", starts.count(-1))
        text = example.get("text", "") if number == 0 else ""
        mine = {"tokens": words[own], "tags": tags[own], "starts": starts}
        yield {**inputs, **mine, "continues": int(number > 0), "text": text, "where": where}
    if parts:
        tools.count("rows kept")
        tools.count("words", len(words))


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: the names of the tags."""
    assert context.labels is not None
    return context.labels.config()


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    """Beside the inputs, (rows, longest) int64: `is_word`, 1 on the first piece of a word, and `labels`, the tag's number there."""
    assert context.labels is not None
    found = [read(int(index), [*text_rows.INPUTS, "starts", "tags"]) for unit in units for index in unit]
    batch = text_rows.padded(found, context)
    is_word, labels = torch.zeros_like(batch["input_ids"]), torch.full_like(batch["input_ids"], IGNORED)
    for number, row in enumerate(found):
        starts = torch.tensor(np.array(row["starts"], np.int64))
        there = starts >= 0
        is_word[number, starts[there]] = 1
        if len(row["tags"]):
            labels[number, starts[there]] = torch.tensor([context.labels.numbers[tag] for tag in row["tags"]])[there]
    return {**batch, "labels": labels, "is_word": is_word}


def _tags(example: Mapping[str, Any], tools: Tools, where: str) -> list[str]:
    """The names of the tags."""
    tags: list[str] = example["tags"]
    if tools.labels is None:
        return tags
    return tools.labels.names_of((tag, f"{where} token {number}") for number, tag in enumerate(tags))


def _readable(words: list[str], tools: Tools) -> list[str]:
    """Words as the tokenizer gets them: one of which it would leave nothing (a joiner between emoji) is an unknown word."""
    starts = _encoded(words, tools, cut=False)[1]
    unknown = tools.processor.unk_token
    if -1 not in starts:
        return words
    tools.count("words read as unknown, since the tokenizer leaves nothing of them", starts.count(-1))
    return [word if start >= 0 or unknown is None else unknown for word, start in zip(words, starts, strict=True)]


def _parts(words: list[str], tools: Tools, where: str) -> Iterator[Window]:
    """All words at once; of too many, as on_truncate says. Where tags are predicted, every word gets one."""
    inputs, starts = _encoded(words, tools, cut=False)
    length, limit = len(inputs["input_ids"]), tools.data.max_length
    on_truncate = tools.on_truncate if tools.labelled else "split"
    if length <= limit:
        yield Window(0, 0, len(words), len(words))
    elif on_truncate == "error":
        raise DataError(f"{length} tokens, more than data.max_length {limit}", where=where, fix="see data.on_truncate")
    elif on_truncate == "drop":
        tools.count("rows dropped as too long")
    elif on_truncate == "truncate":
        tools.count("rows truncated")
        yield Window(0, 0, len(words), len(words))
    else:
        tools.count("rows split")
        yield from windows(_pieces(words, tools), _room(tools))


def _room(tools: Tools) -> int:
    """Pieces of words in a row."""
    special = tools.processor.num_special_tokens_to_add(pair=False)
    if tools.data.max_length <= special:
        raise DataError(f"data.max_length {tools.data.max_length} leaves no room beside {special} special tokens")
    return int(tools.data.max_length - special)


def _pieces(words: list[str], tools: Tools) -> list[int]:
    """The number of each word's pieces, at most as many as a row has room for: the end of a longer word is cut off."""
    counted = Counter(_tokenised(words, tools).word_ids())
    return [min(counted[number], _room(tools)) for number in range(len(words))]


def _encoded(words: list[str], tools: Tools, cut: bool = True) -> tuple[dict[str, list[int]], list[int]]:
    """`INPUTS`, cut to data.max_length, and the place of each word's first piece, -1 where it has none."""
    options = {"truncation": True, "max_length": tools.data.max_length} if cut else {}
    found = _tokenised(words, tools, **options)
    starts = [-1] * len(words)
    for place, number in enumerate(found.word_ids()):
        if number is not None and starts[number] < 0:
            starts[number] = place
    return {name: found[name] for name in text_rows.INPUTS}, starts


def _tokenised(words: list[str], tools: Tools, **options: Any) -> Any:
    first, *others = words
    return tools.processor(
        [first, *(_space(tools) + word for word in others)],
        is_split_into_words=True,
        return_token_type_ids=True,
        verbose=False,
        **options,
    )


def _space(tools: Tools) -> str:
    """What must stand before a word for its pieces to be those it has in running text. Some tokenizers of bytes see a word
    without the space before it (RoBERTa's unless it is told to add one) as the end of another word."""
    if "space before words" not in tools.memory:
        running, split = tools.processor("a a"), tools.processor(["a", "a"], is_split_into_words=True)
        tools.memory["space before words"] = "" if running["input_ids"] == split["input_ids"] else " "
    space: str = tools.memory["space before words"]
    return space
