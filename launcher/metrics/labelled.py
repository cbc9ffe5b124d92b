"""Measurements of tasks whose rows have one label or several, whatever a row is: a text, a picture, a sound."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from launcher.data.context import Context
from launcher.metrics import Measured, classification, loss_of

ERRORS_SHOWN = 20
Show = Callable[[Mapping[str, Any]], str]
Draw = Callable[[Mapping[str, Any]], Any]
MANY = 8  # labels that have every metric that some number of labels has


def measured(
    totals: Mapping[str, tuple[float, float]],
    predictions: Sequence[np.ndarray],
    rows: Any,
    context: Context,
    shown: Show,
    drawn: Draw | None = None,
) -> Measured:
    """`totals`: sum and count of the loss; `predictions`: probabilities (labels,) of each row; `shown`: a row as people read
    it; `drawn`: its picture, where it has one."""
    assert context.labels is not None
    scores, names = np.stack(predictions), list(context.labels.names)
    references = _references(rows.all("labels"), context)
    measure = classification.multi_label if several(context) else classification.single_label
    found = measure(scores, references, names)
    errors = [
        _error(rows.read(index), scores[index], references[index], context, shown, drawn)
        for index in _worst(scores, references, context.threshold)
    ]
    return Measured({**loss_of(totals), **found.values}, {**found.details, "errors": errors})


def measurable(context: Context) -> list[str]:
    """The metrics that these labels can have: those of rows with one label each, all predicted right."""
    assert context.labels is not None
    names = list(context.labels.names[:MANY])
    right = np.eye(len(names))
    found = (
        classification.multi_label(right, right, names)
        if several(context)
        else classification.single_label(right, np.arange(len(names)), names)
    )
    return ["loss", *found.values]


def all_said(
    predictions: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], context: Context, shown: Show
) -> Iterator[dict[str, Any]]:
    """`said` of each row, with the row as people see it."""
    for prediction, row in zip(predictions, rows, strict=True):
        yield {"input": shown(row), **said(prediction, context)}


def said(scores: np.ndarray, context: Context) -> dict[str, Any]:
    """A prediction in words: the label with its probability, or all labels that reach the threshold; and every probability."""
    assert context.labels is not None
    names = context.labels.names
    every = {name: round(float(score), 6) for name, score in zip(names, scores, strict=True)}
    if several(context):
        found = [name for name, score in zip(names, scores, strict=True) if score >= context.threshold]
        return {"labels": found, "scores": every}
    best = int(np.argmax(scores))
    return {"label": names[best], "score": every[names[best]], "scores": every}


def several(context: Context) -> bool:
    """Whether a row may have several labels, or none."""
    return bool(context.head["problem_type"] == "multi_label_classification")


def _references(labels: Sequence[Sequence[str]], context: Context) -> np.ndarray:
    """Numbers (rows,), or zeros and ones (rows, labels)."""
    assert context.labels is not None
    numbers = context.labels.numbers
    if not several(context):
        return np.array([numbers[row[0]] for row in labels])
    found = np.zeros((len(labels), len(numbers)), np.int64)
    for index, row in enumerate(labels):
        found[index, [numbers[name] for name in row]] = 1
    return found


def _worst(scores: np.ndarray, references: np.ndarray, threshold: float) -> list[int]:
    """Rows that are wrong, those with the least probability for what is right first."""
    if references.ndim == 1:
        wrong = scores.argmax(1) != references
        right = scores[np.arange(len(scores)), references]
    else:
        wrong = ((scores >= threshold) != references).any(1)
        right = np.where(references == 1, scores, 1 - scores).min(1)
    order = np.argsort(right, kind="stable")
    return [int(index) for index in order if wrong[index]][:ERRORS_SHOWN]


def _error(
    row: Mapping[str, Any],
    scores: np.ndarray,
    reference: np.ndarray,
    context: Context,
    shown: Show,
    drawn: Draw | None,
) -> dict[str, Any]:
    words = said(scores, context)
    predicted = ", ".join(words["labels"]) or "none" if "labels" in words else words["label"]
    assert context.labels is not None
    right = scores[reference] if reference.ndim == 0 else np.where(reference == 1, scores, 1 - scores).min()
    return {
        "where": row["where"],
        "input": shown(row),
        "reference": ", ".join(row["labels"]) or "none",
        "predicted": predicted,
        "confidence": round(float(scores.max() if reference.ndim == 0 else 1 - right), 4),
        **({"image": partial(drawn, row)} if drawn else {}),
    }
