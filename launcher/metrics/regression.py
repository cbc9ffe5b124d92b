"""Regression: how far numbers are off, and how they move together."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from launcher.metrics import Measured, finite, nothing

MOST_POINTS = 200  # that are drawn


def regression(predictions: ArrayLike, references: ArrayLike) -> Measured:
    """mse, mae, rmse (in the unit of the references), pearson, spearman and r2 of two (rows,) arrays.

    A correlation with a constant is left out, and so is r2 where the references are constant: it has no meaning there.
    """
    predictions, references = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    assert predictions.shape == references.shape and predictions.ndim == 1, (predictions.shape, references.shape)
    if not len(references):
        return nothing("there are no rows")
    if broken := int((~np.isfinite(predictions)).sum()):
        return nothing(f"{broken:,} of {len(predictions):,} predictions are not finite")
    notes: list[str] = []
    with np.errstate(over="ignore", invalid="ignore"):
        values = _errors(predictions, references) | _correlations(predictions, references, notes)
    return finite(values, {"curves": [_cloud(predictions, references)]}, notes)


def _cloud(predictions: NDArray[np.float64], references: NDArray[np.float64]) -> dict[str, Any]:
    """Predicted over right values of rows that lie evenly among all, and where exact ones would lie."""
    chosen = np.unique(np.linspace(0, len(references) - 1, MOST_POINTS).round().astype(int))
    points = [[float(references[i]), float(predictions[i])] for i in chosen]
    ends = [[end, end] for end in (float(references.min()), float(references.max()))]
    lines = [{"name": "exact", "points": ends}, {"name": "rows", "points": points, "apart": True}]
    return {"title": "Predicted over right", "x": "right", "y": "predicted", "lines": lines}


def _errors(predictions: NDArray[np.float64], references: NDArray[np.float64]) -> dict[str, float]:
    off = predictions - references
    mse = float((off**2).mean())
    return {"mse": mse, "mae": float(np.abs(off).mean()), "rmse": mse**0.5}


def _correlations(
    predictions: NDArray[np.float64], references: NDArray[np.float64], notes: list[str]
) -> dict[str, float]:
    from scipy import stats

    values: dict[str, float] = {}
    if (references == references[0]).all():
        notes.append("pearson, spearman and r2 are left out: all references are equal")
        return values
    spread = float(((references - references.mean()) ** 2).sum())
    values["r2"] = 1 - float(((predictions - references) ** 2).sum()) / spread if spread else float("nan")
    if (predictions == predictions[0]).all():
        notes.append("pearson and spearman are left out: all predictions are equal")
        return values
    with warnings.catch_warnings():  # nearly constant: the number stands, the warning would go to the screen
        warnings.simplefilter("ignore")
        values["pearson"] = float(stats.pearsonr(predictions, references).statistic)
        values["spearman"] = float(stats.spearmanr(predictions, references).statistic)
    return values
