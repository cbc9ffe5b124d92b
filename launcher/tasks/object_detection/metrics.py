"""What found boxes are worth, how they look, and what is said of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from launcher.data import boxes, drawing, pictures
from launcher.data.context import Context
from launcher.metrics import Measured, detection, loss_of

FEW = 3  # boxes that are drawn where none reaches the threshold; all count in the average precision
MOST_ERRORS, MOST_PICTURES = 20, 12


def has_threshold(context: Context) -> bool:
    """Boxes always have scores."""
    return True


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[Any], rows: Any, context: Context
) -> Measured:
    assert context.labels is not None
    columns = zip(*(rows.all(name) for name in ("boxes", "labels")), strict=True)
    references = [_reference({"boxes": given, "labels": labels}, context) for given, labels in columns]
    found = detection.detections([p._asdict() for p in predictions], references, list(context.labels.names))
    wrong = [
        _wrong(prediction, reference, context.threshold)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    order = sorted(range(len(wrong)), key=lambda place: -sum(wrong[place]))
    errors = [
        _error(rows.read(place), predictions[place], wrong[place], context)
        for place in order[:MOST_ERRORS]
        if sum(wrong[place])
    ]
    shown = [_picture(rows.read(place), predictions[place], wrong[place], context) for place in _spread(order)]
    return Measured({**loss_of(totals), **found.values}, {**found.details, "errors": errors, "pictures": shown})


def said(predictions: Sequence[Any], rows: Sequence[Mapping[str, Any]], context: Context) -> Iterator[dict[str, Any]]:
    """Boxes x1, y1, x2, y2 in pixels of the picture, from the score of the threshold, the surest first."""
    assert context.labels is not None
    for prediction, row in zip(predictions, rows, strict=True):
        detections = [
            {
                "label": context.labels.names[label],
                "score": round(float(score), 6),
                "box": [round(float(side), 2) for side in box],
            }
            for box, score, label in zip(*_from(prediction, context.threshold), strict=True)
        ]
        yield {"input": pictures.name(row), "size": [row["height"], row["width"]], "detections": detections}


def drawn(prediction: Any, row: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`picture`: with the boxes that are said."""
    return {"picture": _with_boxes(row, _from(prediction, context.threshold), context)}


def _reference(row: Mapping[str, Any], context: Context) -> dict[str, Any]:
    assert context.labels is not None
    corners = boxes.corners(np.asarray(row["boxes"], np.float64).reshape(-1, 4))
    return {"boxes": corners, "labels": np.array([context.labels.numbers[name] for name in row["labels"]], np.int64)}


def _from(prediction: Any, threshold: float) -> Any:
    """The part of a prediction with at least that score."""
    return type(prediction)(*(array[prediction.scores >= threshold] for array in prediction))


def _wrong(prediction: Any, reference: Mapping[str, Any], threshold: float) -> tuple[int, int]:
    """Objects that are not found, and boxes that stand for nothing."""
    found, taken = detection.hits(_from(prediction, threshold)._asdict(), dict(reference))
    return int((~taken).sum()), int((~found).sum())


def _error(row: Mapping[str, Any], prediction: Any, wrong: tuple[int, int], context: Context) -> dict[str, Any]:
    return {
        "where": row["where"],
        "input": pictures.name(row),
        "reference": _numbers(row["labels"]),
        "predicted": _numbers(_names(_from(prediction, context.threshold).labels, context)),
        "missed": wrong[0],
        "false": wrong[1],
        "image": partial(_compared, row, prediction, context),
    }


def _picture(row: Mapping[str, Any], prediction: Any, wrong: tuple[int, int], context: Context) -> dict[str, Any]:
    caption = f"{len(row['labels'])} objects, {wrong[0]} missed; {wrong[1]} boxes around nothing"
    return {
        "image": partial(_compared, row, prediction, context),
        "where": pictures.name(row),
        "caption": f"{caption} (from a score of {context.threshold})",
    }


def _numbers(names: Sequence[str]) -> str:
    """`2 cells, 1 dog`."""
    return ", ".join(f"{number} {name}" for name, number in sorted(Counter(names).items())) or "nothing"


def _names(numbers: Any, context: Context) -> list[str]:
    assert context.labels is not None
    return [context.labels.names[number] for number in numbers]


def _spread(order: Sequence[int]) -> list[int]:
    """Of pictures from the worst to the best, evenly, the two among them."""
    number = min(MOST_PICTURES, len(order))
    return [order[round(i * (len(order) - 1) / max(1, number - 1))] for i in range(number)]


def _compared(row: Mapping[str, Any], prediction: Any, context: Context) -> Any:
    """The reference and the prediction beside each other."""
    reference, found = _reference(row, context), _from(prediction, context.threshold)
    title = f"predicted, from a score of {context.threshold}"
    if not len(found.scores):
        found = type(prediction)(*(array[:FEW] for array in prediction))
        title = f"predicted, no score of {context.threshold}: the best {len(found.scores)}"
    left = _with_boxes(row, (reference["boxes"], None, reference["labels"]), context)
    return drawing.beside(left, _with_boxes(row, found, context), titles=["reference", title])


def _with_boxes(row: Mapping[str, Any], found: tuple[Any, Any, Any], context: Context) -> Any:
    """found: corners, scores or None, and labels."""
    assert context.labels is not None
    corners, scores, labels = found
    colour_of, names = drawing.colours(context.labels.names), _names(labels, context)
    return drawing.boxes(pictures.read(row), corners, names, scores, colour_of)
