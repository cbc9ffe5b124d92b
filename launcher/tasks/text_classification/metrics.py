"""What predicted labels of texts are worth, and which were wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data import text_rows
from launcher.data.context import Context
from launcher.metrics import Measured, labelled

has_threshold = labelled.several
measurable = labelled.measurable


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[np.ndarray], rows: Any, context: Context
) -> Measured:
    return labelled.measured(totals, predictions, rows, context, text_rows.shown)


def said(
    predictions: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], context: Context
) -> Iterator[dict[str, Any]]:
    """Predictions for people and programs."""
    return labelled.all_said(predictions, rows, context, text_rows.shown)
