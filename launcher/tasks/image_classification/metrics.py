"""What predicted labels of pictures are worth, and which were wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data import drawing, pictures
from launcher.data.context import Context
from launcher.metrics import Measured, labelled

has_threshold = labelled.several
measurable = labelled.measurable


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[np.ndarray], rows: Any, context: Context
) -> Measured:
    return labelled.measured(totals, predictions, rows, context, pictures.file_name, pictures.small)


def said(
    predictions: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], context: Context
) -> Iterator[dict[str, Any]]:
    """Predictions for people and programs."""
    return labelled.all_said(predictions, rows, context, pictures.name)


def drawn(prediction: np.ndarray, row: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`picture`: a small copy under what was predicted."""
    words = labelled.said(prediction, context)
    title = ", ".join(words["labels"]) or "none" if "labels" in words else f"{words['label']} {words['score']:.2f}"
    return {"picture": drawing.beside(pictures.small(row), titles=[title])}
