"""What follows from counts of classes alone: precision, recall, F1, and the tables and matrices that show them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_CLASSES_SHOWN = 100  # a matrix of more is unreadable, and its size grows with the square


class PerClass(NamedTuple):
    """Arrays (classes,): precision, recall and F1 from 0 to 1, and support, the number of references of a class."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


def ratio(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """part / whole, and 0 where there is no whole."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    out: NDArray[np.float64] = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    np.divide(part, whole, out=out, where=whole != 0)
    return out


def per_class(right: NDArray[np.int64], predicted: NDArray[np.int64], references: NDArray[np.int64]) -> PerClass:
    """From (classes,) counts: how often a class was predicted rightly, was predicted, and is the reference.

    F1 = 2 right / (predicted + references), which is the harmonic mean of precision and recall.
    """
    f1 = ratio(2 * right, predicted + references)
    return PerClass(ratio(right, predicted), ratio(right, references), f1, references)


def averages(right: NDArray[np.int64], predicted: NDArray[np.int64], references: NDArray[np.int64]) -> dict[str, float]:
    """Precision, recall and F1 of all decisions together: the micro average."""
    total = per_class(right.sum(), predicted.sum(), references.sum())
    return {"precision": float(total.precision), "recall": float(total.recall), "f1": float(total.f1)}


def confusion(references: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts[reference][predicted] of two (rows,) arrays of class indices."""
    pairs = references.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def table(labels: list[str], found: PerClass) -> dict[str, Any]:
    """`details["table"]` of all classes in the order of the labels."""
    columns = [array.tolist() for array in found]
    rows = [list(row) for row in zip(labels, *columns, strict=True)]
    return {"columns": ["class", *PerClass._fields], "rows": rows}


def confusion_matrix(
    counts: NDArray[np.int64], labels: list[str], notes: list[str], most: int = MOST_CLASSES_SHOWN
) -> dict[str, Any]:
    """`details["confusion_matrix"]`; of more than `most` classes those with the most references, and a note says so."""
    if len(labels) > most:
        shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[:most])
        notes.append(f"the confusion matrix shows the {most} most frequent of {len(labels):,} classes")
        counts, labels = counts[np.ix_(shown, shown)], [labels[i] for i in shown]
    return {"labels": labels, "counts": counts.tolist()}
