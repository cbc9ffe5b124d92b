"""Questions to windows of token ids, and windows to batches.

A row is a window: the question, and as much of the context as fits. Windows of a question follow each other, and neighbours
share data.doc_stride tokens of the context.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from launcher import log
from launcher.data import text_rows
from launcher.data.context import Context, Tools
from launcher.data.labels import IGNORED
from launcher.data.prepare import Columns
from launcher.errors import DataError, RecipeError

# `start`, `end`: the answer's first and last token, the null position where the window does not hold all of it, -100 where it
# is not known. `window`: from 0 for each question; the first has the texts. `char_starts`, `char_ends`: of the tokens of the
# context, which begin at `first_context`.
COLUMNS = Columns(
    {
        **text_rows.INPUTS,
        "start": "int",
        "end": "int",
        "window": "int",
        "first_context": "int",
        "char_starts": "ints",
        "char_ends": "ints",
        "id": "text",
        "question": "text",
        "context": "text",
        "answers": "texts",
        "where": "text",
    },
    length="input_ids",
)
TARGETS = ("start", "end")


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("questions read")
    windows = list(_windows(_shortened(example["question"], tools, where), example["context"], tools))
    spans = _spans(windows, example, tools)
    answers = example["answers"] if tools.labelled else []
    texts = {name: example[name] for name in ("question", "context")}
    texts |= {"id": example.get("id", where), "where": where, "answers": [answer["text"] for answer in answers]}
    for number, (window, (start, end)) in enumerate(zip(windows, spans, strict=True)):
        tools.count("tokens", len(window["input_ids"]))
        yield {**window, "start": start, "end": end, "window": number, **texts}
        texts = {**dict.fromkeys(texts, ""), "answers": []}
    tools.count("windows", len(windows))


def head(train: Any, context: Context) -> dict[str, Any]:
    """Nothing for the model's configuration; but what the data tells of a threshold that it does not need is said.

    Raises DataError where there is nothing to learn: no answer lies in a window.
    """
    if all(start == IGNORED for start in train.all("start")):
        paths = ", ".join(source.path for source in context.data.train)
        raise DataError("no answer lies whole in a window", where=paths, fix="see data.max_length and data.doc_stride")
    has_unanswerable = "questions without an answer" in train.counts
    if not has_unanswerable and context.data.null_score_diff_threshold is not None:
        log.say(
            "note: every question of data.train has an answer; with data.null_score_diff_threshold: null the model always "
            "gives one"
        )
    return {}


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    """Beside the inputs: `start_positions`, `end_positions`, `null_position` (rows,) and `is_context` (rows, longest), int64."""
    names = [*text_rows.INPUTS, *TARGETS, "first_context", "char_starts"]
    found = [read(int(index), names) for unit in units for index in unit]
    batch = text_rows.padded(found, context)
    is_context = torch.zeros_like(batch["input_ids"])
    for number, row in enumerate(found):
        is_context[number, row["first_context"] : row["first_context"] + len(row["char_starts"])] = 1
    targets = {f"{name}_positions": torch.tensor([row[name] for row in found] or [IGNORED]) for name in TARGETS}
    nulls = [null_position(row["input_ids"], context.processor) for row in found] or [0]
    return {**batch, **targets, "is_context": is_context, "null_position": torch.tensor(nulls)}


def null_position(input_ids: Sequence[int], tokenizer: Any) -> int:
    """The token that stands for no answer: the first CLS, or the first token of models without one."""
    places = np.flatnonzero(np.asarray(input_ids) == (-1 if tokenizer.cls_token_id is None else tokenizer.cls_token_id))
    return int(places[0]) if len(places) else 0


def _shortened(question: str, tools: Tools, where: str) -> str:
    """The question up to data.max_query_length tokens."""
    limit, shortened = tools.data.max_query_length, question
    while len(offsets := _offsets(shortened, tools)) > limit:  # again, if what is left is cut into other tokens
        shortened = shortened[: min(offsets[limit][0], len(shortened) - 1)]
    if not offsets:
        raise DataError("no token is left of the question", where=where, fix="mend the row, or set data.on_error: skip")
    if shortened != question:
        tools.count("questions cut off")
    return shortened


def _offsets(text: str, tools: Tools) -> list[tuple[int, int]]:
    """(first character, last + 1) of each token."""
    found = tools.processor(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: list[tuple[int, int]] = found["offset_mapping"]
    return offsets


def _windows(question: str, context: str, tools: Tools) -> Iterator[dict[str, Any]]:
    """`INPUTS` of each window, and where its tokens stand in the context."""
    _insist_on_room(tools)
    options = {"return_token_type_ids": True, "return_offsets_mapping": True, "verbose": False}
    found = tools.processor(
        question,
        context,
        truncation="only_second",
        max_length=tools.data.max_length,
        stride=tools.data.doc_stride,
        return_overflowing_tokens=True,
        **options,
    )
    for number, input_ids in enumerate(found["input_ids"]):
        places = [place for place, text in enumerate(found.sequence_ids(number)) if text == 1]
        offsets = [found["offset_mapping"][number][place] for place in places]
        yield {
            "input_ids": input_ids,
            "token_type_ids": found["token_type_ids"][number],
            "first_context": places[0] if places else len(input_ids),
            "char_starts": [start for start, _ in offsets],
            "char_ends": [end for _, end in offsets],
        }


def _insist_on_room(tools: Tools) -> None:
    """The longest question must leave more room than neighbouring windows share, or they would not get on."""
    data, special = tools.data, tools.processor.num_special_tokens_to_add(pair=True)
    room = data.max_length - data.max_query_length - special
    if room <= data.doc_stride:
        raise RecipeError(
            f"data.doc_stride: windows cannot share {data.doc_stride} tokens of the context where data.max_length "
            f"{data.max_length} leaves {max(0, room)} beside a question of data.max_query_length {data.max_query_length} and "
            f"{special} special tokens",
            fix="lower doc_stride or max_query_length, or raise max_length",
        )


def _spans(windows: list[dict[str, Any]], example: Mapping[str, Any], tools: Tools) -> list[tuple[int, int]]:
    """First and last token of the first answer in each window, or the null position twice. Where no window holds all of the
    answer, nothing is learned of the question: that it has none would be wrong."""
    if not tools.labelled:
        return [(IGNORED, IGNORED)] * len(windows)
    nulls = [null_position(window["input_ids"], tools.processor) for window in windows]
    if not example["answers"]:
        tools.count("questions without an answer")
        return [(null, null) for null in nulls]
    found = [_tokens_of(window, example["answers"][0]) for window in windows]
    held = next((pair for pair in zip(windows, found, strict=True) if pair[1]), None)
    if held is None:
        tools.count("questions whose answer is in no window as a whole")
        return [(IGNORED, IGNORED)] * len(windows)
    _count_out_of_reach(*held, example, tools)
    return [span or (null, null) for span, null in zip(found, nulls, strict=True)]


def _tokens_of(window: Mapping[str, Any], answer: Mapping[str, Any]) -> tuple[int, int] | None:
    """The tokens of the window that cover an answer; None if the window does not hold all of it."""
    first = answer["answer_start"] + len(answer["text"]) - len(answer["text"].lstrip())
    last = first + len(answer["text"].strip())
    starts, ends = np.asarray(window["char_starts"]), np.asarray(window["char_ends"])
    over = np.flatnonzero((ends > first) & (starts < last))
    if not len(over) or starts[0] > first or ends[-1] < last:
        return None
    return window["first_context"] + int(over[0]), window["first_context"] + int(over[-1])


def _count_out_of_reach(
    window: Mapping[str, Any], span: tuple[int, int], example: Mapping[str, Any], tools: Tools
) -> None:
    """Answers that no prediction can equal."""
    start, end = (place - window["first_context"] for place in span)
    spelt = example["context"][window["char_starts"][start] : window["char_ends"][end]]
    if spelt.strip() != example["answers"][0]["text"].strip():
        tools.count("answers that begin or end inside a token")
    if end - start >= tools.data.max_answer_length:
        tools.count("answers longer than data.max_answer_length")
