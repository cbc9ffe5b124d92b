"""What predicted answers are worth, and which were wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data.context import Context
from launcher.metrics import Measured, squad
from launcher.tasks.question_answering.spans import COLUMNS, Answer, answers

ERRORS_SHOWN = 20
SHOWN_CHARACTERS = 120  # of the context, on either side of an answer
POINTS = 100  # of a curve


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[np.ndarray], rows: Any, context: Context
) -> Measured:
    threshold = context.data.null_score_diff_threshold
    found = list(answers(predictions, (rows.read(index, COLUMNS) for index in range(len(rows)))))
    texts, references = [one.text(threshold) for one in found], [one.row["answers"] for one in found]
    measured = squad.answers(texts, references)
    f1 = np.array([squad.f1(*pair) for pair in zip(texts, references, strict=True)])
    total, count = totals["windows"]
    details = {**measured.details, **_kinds(measured.values, references), **_curve(found)}
    errors = [_error(found[index], f1[index], threshold) for index in _worst(found, f1, threshold)]
    loss = {"loss": total / count} if count else {}
    return Measured({**loss, **measured.values}, {**details, "errors": errors})


def said(
    predictions: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], context: Context
) -> Iterator[dict[str, Any]]:
    """Predictions for people and programs; start and end count characters of the context, the last not included."""
    threshold = context.data.null_score_diff_threshold
    for one in answers(predictions, rows):
        start, end = one.span(threshold) or (None, None)
        yield {
            "id": one.row["id"],
            "question": one.row["question"],
            "answer": one.text(threshold),
            "score": round(one.probability(threshold), 6),
            "start": start,
            "end": end,
        }


def _kinds(values: Mapping[str, float], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table of questions with and without an answer, where there are both."""
    if "NoAns_f1" not in values:
        return {}
    answerable = sum(map(bool, references))
    numbers = {"HasAns": answerable, "NoAns": len(references) - answerable}
    kinds = {"HasAns": "with an answer", "NoAns": "without an answer"}
    found = [[kinds[key], values[f"{key}_exact"], values[f"{key}_f1"], number] for key, number in numbers.items()]
    return {"table": {"columns": ["questions", "exact_match", "f1", "support"], "rows": found}}


def _curve(found: Sequence[Answer]) -> dict[str, Any]:
    """F1 over null_score_diff_threshold, where questions without an answer are among the others."""
    answerable = [bool(one.row["answers"]) for one in found]
    if all(answerable) or not any(answerable):
        return {}
    differences = np.array([one.null_difference for one in found])
    given = np.array([squad.f1(one.text(None), one.row["answers"]) for one in found])
    none = np.array([squad.f1("", one.row["answers"]) for one in found])
    finite = differences[np.isfinite(differences)]
    thresholds = np.unique(np.quantile(finite, np.linspace(0, 1, POINTS))) if len(finite) else []
    points = [[float(at), float(np.where(differences > at, none, given).mean())] for at in thresholds]
    lines = [{"name": "all questions", "points": points}]
    return {"curves": [{"title": "F1 by threshold", "x": "null_score_diff_threshold", "y": "f1", "lines": lines}]}


def _worst(found: Sequence[Answer], f1: np.ndarray, threshold: float | None) -> list[int]:
    """Questions that are not answered rightly, the least right first, and of those the surest."""
    sure = np.array([one.probability(threshold) for one in found])
    order = np.lexsort((-sure, f1)).tolist()
    return [index for index in order if f1[index] < 1][:ERRORS_SHOWN]


def _error(one: Answer, f1: float, threshold: float | None) -> dict[str, Any]:
    return {
        "where": one.row["where"],
        "input": one.row["question"],
        "context": _excerpt(one, threshold),
        "reference": " | ".join(dict.fromkeys(one.row["answers"])) or "no answer",
        "predicted": one.text(threshold) or "no answer",
        "f1": round(float(f1), 4),
        "confidence": round(one.probability(threshold), 4),
    }


def _excerpt(one: Answer, threshold: float | None) -> str:
    """The context around the first right answer, or around what is predicted where there is none."""
    context, span = one.row["context"], one.span(threshold) or (0, 0)
    if one.row["answers"]:
        start = context.find(one.row["answers"][0])
        span = start, start + len(one.row["answers"][0])
    first, last = max(0, span[0] - SHOWN_CHARACTERS), span[1] + SHOWN_CHARACTERS
    return ("..." if first else "") + context[first:last] + ("..." if last < len(context) else "")
