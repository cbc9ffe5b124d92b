"""What predicted tags are worth, and which sentences have wrong ones."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launcher.data.context import Context
from launcher.metrics import Measured, spans
from launcher.tasks.token_classification import METRICS

ERRORS_SHOWN = 20
OUTSIDE = "O"
COLUMNS = ("starts", "tokens", "tags", "continues", "text", "where")


@dataclass
class Sentence:
    """All words of a sentence; `references` is empty where they are not known, `scores` 0 for a word without a token."""

    text: str
    where: str
    tokens: list[str]
    references: list[str]
    predicted: list[str]
    scores: list[float]

    @property
    def wrong(self) -> list[int]:
        pairs = enumerate(zip(self.references, self.predicted, strict=True))
        return [number for number, (wanted, given) in pairs if wanted != given]


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[np.ndarray], rows: Any, context: Context
) -> Measured:
    read = (rows.read(index, COLUMNS) for index in range(len(rows)))
    found = list(sentences(predictions, read, context))
    measured = spans.sequences([one.predicted for one in found], [one.references for one in found])
    total, count = totals["words"]
    notes = [*measured.details.get("notes", []), *_unseen(rows, context)]
    worst = sorted((one for one in found if one.wrong), key=lambda one: (-len(one.wrong), -_confidence(one)))
    details = {**measured.details, "errors": [_error(one) for one in worst[:ERRORS_SHOWN]]}
    return Measured({"loss": total / count, **measured.values}, {**details, "notes": notes} if notes else details)


def measurable(context: Context) -> Sequence[str]:
    """Where the tags are all of spans, or none is; else it depends on which of them occur."""
    assert context.labels is not None
    are_spans = {spans.are_spans([name]) for name in context.labels.names}
    of_others = {True: ("f1_macro",), False: ("f1", "precision", "recall")}
    return [name for name in METRICS if len(are_spans) > 1 or name not in of_others[are_spans == {True}]]


def said(
    predictions: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], context: Context
) -> Iterator[dict[str, Any]]:
    """Predictions for people and programs; the places of an entity count characters of `text`, the last not included."""
    for one in sentences(predictions, rows, context):
        text = one.text or " ".join(one.tokens)
        yield {"text": text, "tokens": one.tokens, "tags": one.predicted, "entities": _entities(one, text)}


def sentences(
    predictions: Iterable[np.ndarray], rows: Iterable[Mapping[str, Any]], context: Context
) -> Iterator[Sentence]:
    """Sentences that were split are whole again. A word without a token is `O`, or has the most frequent tag without an O."""
    whole: Sentence | None = None
    for prediction, row in zip(predictions, rows, strict=True):
        tags, scores = _of_words(prediction, row, context)
        if whole is not None and row["continues"]:
            for mine, more in ((whole.tokens, row["tokens"]), (whole.references, row["tags"])):
                mine += more
            whole.predicted += tags
            whole.scores += scores
            continue
        if whole is not None:
            yield whole
        whole = Sentence(row["text"], row["where"], list(row["tokens"]), list(row["tags"]), tags, scores)
    if whole is not None:
        yield whole


def _of_words(prediction: np.ndarray, row: Mapping[str, Any], context: Context) -> tuple[list[str], list[float]]:
    assert context.labels is not None
    seen = np.asarray(row["starts"]) >= 0
    numbers, scores = np.full(len(seen), context.labels.numbers[_unseen_tag(context)]), np.zeros(len(seen))
    numbers[seen], scores[seen] = prediction.T
    return [context.labels.names[number] for number in numbers], scores.tolist()


def _unseen_tag(context: Context) -> str:
    assert context.labels is not None
    names, counts = context.labels.names, context.label_counts
    return OUTSIDE if OUTSIDE in names else names[int(np.argmax(counts)) if counts else 0]


def _unseen(rows: Any, context: Context) -> list[str]:
    """A note of how many words the model has not seen."""
    starts = rows.all("starts")
    number = sum(start < 0 for row in starts for start in row)
    total = sum(map(len, starts))
    if not number:
        return []
    return [f"{number:,} of {total:,} words have no token (see data.max_length) and count as {_unseen_tag(context)}"]


def _entities(one: Sentence, text: str) -> list[dict[str, Any]]:
    """Spans of tags, where the tags are of spans; the score is the mean of the words' probabilities."""
    if not spans.are_spans(one.predicted):
        return []
    found = sorted((first, last, kind) for _, kind, first, last in spans.read([one.predicted]))
    places = _places(one, text)
    return [
        {
            "type": kind,
            "text": text[places[first][0] : places[last][1]],
            "start": places[first][0],
            "end": places[last][1],
            "score": round(float(np.mean(one.scores[first : last + 1])), 6),
        }
        for first, last, kind in found
    ]


def _places(one: Sentence, text: str) -> list[tuple[int, int]]:
    """(first character, last + 1) of each word."""
    if one.text:
        return [match.span() for match in re.finditer(r"\S+", text)]
    ends = np.cumsum([len(token) + 1 for token in one.tokens]) - 1
    return [(int(end) - len(token), int(end)) for token, end in zip(one.tokens, ends, strict=True)]


def _confidence(one: Sentence) -> float:
    """Mean probability of the wrong tags."""
    return float(np.mean([one.scores[number] for number in one.wrong]))


def _error(one: Sentence) -> dict[str, Any]:
    told = [n for n, pair in enumerate(zip(one.references, one.predicted, strict=True)) if pair != (OUTSIDE, OUTSIDE)]
    return {
        "where": one.where,
        "input": one.text or " ".join(one.tokens),
        "reference": " ".join(f"{one.tokens[n]}/{one.references[n]}" for n in told),
        "predicted": " ".join(f"{one.tokens[n]}/{one.predicted[n]}" for n in told),
        "wrong tags": len(one.wrong),
        "confidence": round(_confidence(one), 4),
    }
