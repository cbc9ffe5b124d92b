"""What predicted labels of texts are worth, and which were wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data.context import Context
from launcher.metrics import Measured, labelled


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[np.ndarray], rows: Any, context: Context
) -> Measured:
    return labelled.measured(totals["labels"], predictions, rows, context, _shown)


def said(prediction: np.ndarray, row: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """A prediction for people and programs."""
    return labelled.said(prediction, context)


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['text']} | {row['text_pair']}" if row["text_pair"] else row["text"]
