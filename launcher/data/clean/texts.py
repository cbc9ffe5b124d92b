"""The columns of an example as cleaning sees them: texts to edit and to compare, media by content, and the answers."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from launcher.data.clean.steps import NormalizeUnicode, Trim
from launcher.data.formats.media import MEDIA

Example = Mapping[str, Any]
Edit = Callable[[str], str]
INPUTS = ("text", "text_pair", "tokens", "question", "context", "source", "prompt", "messages")
GENERATED = ("target", "completion")  # answers that are texts
TEXTS = (*INPUTS, *GENERATED)
SEEN = ("image", "audio")  # inputs that are files
SPACES = re.compile(r"[^\S\n\r]+")
ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}


def held(example: Example, names: Sequence[str]) -> tuple[str, ...]:
    """Those columns that the example has."""
    return tuple(name for name in names if example.get(name) is not None)


def text(example: Example, column: str) -> str:
    """A column as one text: tokens with spaces between, turns as JSON with their roles, what is no text as JSON."""
    value = example[column]
    if isinstance(value, str) and column not in MEDIA:
        return value
    if column == "tokens":
        return " ".join(value)
    return content(value) if column in MEDIA else json.dumps(value, ensure_ascii=False, sort_keys=True)


def spoken(example: Example, column: str) -> str:
    """As `text`, but of turns only what they say: for measuring."""
    if column != "messages":
        return text(example, column)
    return "\n".join(turn["content"] for turn in example["messages"] if isinstance(turn.get("content"), str))


def content(value: str | bytes) -> str:
    """Digest of a file, or of the bytes that a cell holds."""
    try:
        return xxh3_128(Path(value).read_bytes() if isinstance(value, str) else value).hexdigest()
    except OSError:
        return f"cannot be read: {value!r}"


def key(example: Example, columns: Sequence[str], ignore_case: bool = False) -> bytes:
    """Digest of some columns: equal where these are."""
    values = [text(example, column) if column in example else None for column in columns]
    written = json.dumps([value.casefold() if ignore_case and value else value for value in values])
    return xxh3_128(written.encode()).digest()


def answer(example: Example) -> bytes:
    """Digest of what is learned of the input and is no text itself: label, tags, boxes, mask, answers."""
    return key(example, sorted(set(example) - {*TEXTS, *SEEN, "id", "size"}))


def is_empty(example: Example, column: str) -> bool:
    """Of a conversation: nobody says anything, or an answer that is to be learned is empty."""
    if column != "messages":
        return not text(example, column).strip()
    turns = [turn for turn in example["messages"] if isinstance(turn.get("content"), str)]
    silent = [turn for turn in turns if not turn["content"].strip()]
    learned = any(turn["role"] == "assistant" and not turn.get("tool_calls") for turn in silent)
    return learned or len(silent) == len(example["messages"])


# --- edits ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def inner_edit(step: Trim | NormalizeUnicode) -> Edit:
    """What a step does to a text wherever it is cut; the ends are `ends`'s."""
    if isinstance(step, Trim):
        return (lambda given: SPACES.sub(" ", given)) if step.collapse_spaces else (lambda given: given)
    form, unify = step.form, step.unify_line_ends
    removed: dict[int, None] = {}
    removed |= CONTROL if step.remove_control else {}
    removed |= ZERO_WIDTH if step.remove_zero_width else {}

    def rewritten(given: str) -> str:
        if unify:
            given = given.replace("\r\n", "\n").replace("\r", "\n")
        return unicodedata.normalize(form, given.translate(removed))

    return rewritten


def edited(example: Example, column: str, step: Trim | NormalizeUnicode) -> Any:
    """The column after the step. A token of which nothing would be left stays, so that each tag keeps its token."""
    inner = inner_edit(step)
    whole: Edit = (lambda given: inner(given).strip()) if isinstance(step, Trim) else inner
    value = example[column]
    if column == "tokens":
        return [whole(token) or token for token in value]
    if column == "messages":
        return [
            {**turn, "content": whole(turn["content"])} if isinstance(turn.get("content"), str) else turn
            for turn in value
        ]
    return whole(value)
