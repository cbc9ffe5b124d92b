"""What predicted numbers are worth, and which were furthest off."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data import text_rows
from launcher.data.context import Context
from launcher.metrics import Measured, regression

ERRORS_SHOWN = 20


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[float], rows: Any, context: Context
) -> Measured:
    predicted = np.asarray(predictions)
    references = np.asarray([value[0] for value in rows.all("label")])
    found = regression.regression(predicted, references)
    worst = np.argsort(-np.abs(predicted - references), kind="stable")[:ERRORS_SHOWN]
    errors = [_error(rows.read(int(index)), predicted[index]) for index in worst]
    total, count = totals["values"]
    return Measured({"loss": total / count, **found.values}, {**found.details, "errors": errors})


def said(predictions: Sequence[float], rows: Sequence[Mapping[str, Any]], context: Context) -> Iterator[dict[str, Any]]:
    """Predictions for people and programs."""
    for prediction, row in zip(predictions, rows, strict=True):
        yield {"input": text_rows.shown(row), "value": round(prediction, 6)}


def _error(row: Mapping[str, Any], predicted: float) -> dict[str, Any]:
    reference = float(row["label"][0])
    return {
        "where": row["where"],
        "input": text_rows.shown(row),
        "reference": f"{reference:g}",
        "predicted": f"{predicted:.3g}",
        "off by": f"{predicted - reference:+.3g}",
    }
