"""How well scores order rows: the area under the ROC curve, and precision against recall."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 200
MOST_LINES = 10


def auroc(scores: NDArray[np.float64], occurs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(classes,) area under the ROC curve of each column of `scores` (rows, classes) against `occurs` (rows, classes).

    The share of pairs of a row with the class and one without it in which the former has the higher score, ties by
    half: Mann-Whitney's U (Hanley and McNeil 1982). NaN for a class that all rows have, or none.
    """
    return np.array([_auroc(column, has) for column, has in zip(scores.T, occurs.T, strict=True)])


def _auroc(scores: NDArray[np.float64], occurs: NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    positive = int(occurs.sum())
    pairs = positive * (len(occurs) - positive)
    if not pairs:
        return float("nan")
    return float((rankdata(scores)[occurs].sum() - positive * (positive + 1) / 2) / pairs)


def precision_recall(scores: NDArray[np.float64], occurs: NDArray[np.bool_]) -> list[list[float]]:
    """Points [recall, precision], one a distinct score, highest first, after [0, 1]; `scores` and `occurs` are (rows,).

    At least one row must have the class.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(occurs[order])
    last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    recall, precision = hits[last_of_ties] / hits[-1], hits[last_of_ties] / (last_of_ties + 1)
    return [[0.0, 1.0], *np.stack([recall, precision], 1).tolist()]


def thinned(points: list[list[float]], most: int = MOST_POINTS) -> list[list[float]]:
    """At most `most` of the points, evenly spaced by number, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, most).round().astype(int)]


def precision_recall_curves(
    scores: NDArray[np.float64], occurs: NDArray[np.bool_], labels: list[str]
) -> list[dict[str, Any]]:
    """`details["curves"]`: a line for each of the (at most ten) most frequent classes; none where no class occurs."""
    frequent = np.sort(np.argsort(-occurs.sum(0), kind="stable")[:MOST_LINES])
    points = {labels[c]: precision_recall(scores[:, c], occurs[:, c]) for c in frequent if occurs[:, c].any()}
    return curves(points)


def curves(points: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """`details["curves"]` of a picture of precision against recall with these lines, thinned."""
    lines = [{"name": name, "points": thinned(line)} for name, line in points.items()]
    return [{"title": "Precision and recall", "x": "recall", "y": "precision", "lines": lines}] if lines else []
