"""Classification: one class a row, or any number of classes a row."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from launcher.metrics import Measured, counts, finite, named, nothing, ranking


def single_label(scores: ArrayLike, references: ArrayLike, labels: list[str]) -> Measured:
    """One class a row. `scores` (rows, classes): probabilities, rows sum to 1. `references` (rows,): class indices.

    Predicted is the class of the highest score, of equal ones the first. Macro averages leave out classes that are
    neither predicted nor a reference, as scikit-learn does; `auroc` is one against the rest, averaged over the classes
    that some rows have and others have not, and of two classes that of the second. `mcc`: see `_mcc`.
    """
    scores, references = np.asarray(scores, np.float64), np.asarray(references, np.int64)
    assert scores.shape == (len(references), len(labels)), (scores.shape, len(references), len(labels))
    if unfit := _unfit(scores):
        return nothing(unfit)
    confusion = counts.confusion(references, scores.argmax(1), len(labels))
    occurs = references[:, None] == np.arange(len(labels))
    told = slice(1 if len(labels) == 2 else 0, None)
    notes: list[str] = []
    values = _from_confusion(confusion, labels, notes) | _auroc(scores[:, told], occurs[:, told], labels[told], notes)
    if len(labels) > 5:
        values["top5_accuracy"] = float((_places(scores, references) < 5).mean())
    details: dict[str, Any] = {"confusion_matrix": counts.confusion_matrix(confusion, labels, notes)}
    details["table"] = counts.table(labels, counts.per_class(*_marginals(confusion)))
    details["curves"] = ranking.precision_recall_curves(scores, occurs, labels)
    return finite(values, details, notes)


def multi_label(scores: ArrayLike, references: ArrayLike, labels: list[str], threshold: float = 0.5) -> Measured:
    """Any number of classes a row. `scores` (rows, classes): a probability each. `references` (rows, classes): 0 or 1.

    Predicted are the classes with at least `threshold`. `subset_accuracy`: the share of rows whose set is exactly right;
    `hamming_loss`: the share of wrong decisions, of rows times classes. Macro averages are over all classes, as
    scikit-learn's: one that is neither predicted nor a reference counts as 0. `auroc`: over classes that have both.
    """
    scores, occurs = np.asarray(scores, np.float64), np.asarray(references).astype(bool)
    assert scores.shape == (len(occurs), len(labels)) == occurs.shape, (scores.shape, occurs.shape, len(labels))
    if unfit := _unfit(scores):
        return nothing(unfit)
    predicted = scores >= threshold
    marginals = (predicted & occurs).sum(0), predicted.sum(0), occurs.sum(0)
    found = counts.per_class(*marginals)
    notes: list[str] = []
    if absent := [label for label, seen in zip(labels, (predicted | occurs).any(0), strict=True) if not seen]:
        notes.append(f"neither predicted nor a reference, and 0 in macro averages: {named(absent)}")
    values = {"subset_accuracy": float((predicted == occurs).all(1).mean())}
    values["hamming_loss"] = float((predicted != occurs).mean())
    values |= {f"{name}_micro": value for name, value in counts.averages(*marginals).items()}
    values |= {f"{name}_macro": float(getattr(found, name).mean()) for name in ("precision", "recall", "f1")}
    values |= _auroc(scores, occurs, labels, notes)
    details = {"table": counts.table(labels, found)}
    return finite(values, details | {"curves": ranking.precision_recall_curves(scores, occurs, labels)}, notes)


def _unfit(scores: NDArray[np.float64]) -> str:
    if not scores.size:
        return "there are no rows"
    broken = int((~np.isfinite(scores)).any(1).sum())
    return f"the scores of {broken:,} of {len(scores):,} rows are not finite" if broken else ""


def _marginals(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    return confusion.diagonal(), confusion.sum(0), confusion.sum(1)


def _from_confusion(confusion: NDArray[np.int64], labels: list[str], notes: list[str]) -> dict[str, float]:
    right, predicted, references = _marginals(confusion)
    found = counts.per_class(right, predicted, references)
    present = predicted + references > 0
    if not present.all():
        absent = [label for label, seen in zip(labels, present, strict=True) if not seen]
        notes.append(f"neither predicted nor a reference, and not in macro averages: {named(absent)}")
    return {
        "accuracy": right.sum() / confusion.sum(),
        "precision_macro": found.precision[present].mean(),
        "recall_macro": found.recall[present].mean(),
        "f1_macro": found.f1[present].mean(),
        "f1_micro": counts.averages(right, predicted, references)["f1"],
        "f1_weighted": float(np.average(found.f1, weights=references)),
        "mcc": _mcc(right.sum(), predicted, references),
    }


def _mcc(right: int, predicted: NDArray[np.int64], references: NDArray[np.int64]) -> float:
    """Matthews' correlation coefficient of any number of classes (Gorodkin 2004): -1 to 1, and 0 where a side is constant."""
    rows = int(references.sum())
    guessed, wanted = [int(n) for n in predicted], [int(n) for n in references]  # Python's integers do not overflow
    both = sum(g * w for g, w in zip(guessed, wanted, strict=True))
    spread = (rows**2 - sum(g * g for g in guessed)) * (rows**2 - sum(w * w for w in wanted))
    return float((int(right) * rows - both) / spread**0.5) if spread else 0.0


def _auroc(
    scores: NDArray[np.float64], occurs: NDArray[np.bool_], labels: list[str], notes: list[str]
) -> dict[str, float]:
    areas = ranking.auroc(scores, occurs)
    known = np.isfinite(areas)
    if not known.all():
        unknown = [label for label, ok in zip(labels, known, strict=True) if not ok]
        notes.append(f"auroc leaves out classes that no row has, or every row: {named(unknown)}")
    return {"auroc": float(areas[known].mean())} if known.any() else {}


def _places(scores: NDArray[np.float64], references: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows,) the place of the reference among the classes by score, from 0; of equal scores the first class is ahead."""
    own = scores[np.arange(len(scores)), references][:, None]
    earlier = np.arange(scores.shape[1]) < references[:, None]
    places: NDArray[np.int64] = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return places
