"""What predicted masks are worth, how they look, and what is said of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from launcher.data import drawing, masks, pictures
from launcher.data.context import Context
from launcher.metrics import Measured, loss_of, segmentation

MOST_PICTURES = 12


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[Any], rows: Any, context: Context
) -> Measured:
    assert context.labels is not None
    names = list(context.labels.names)
    images = [_dense(prediction.counts, len(names)) for prediction in predictions]
    found = segmentation.from_counts(sum(images, np.zeros_like(images[0])), names, images)
    shown = [_picture(rows.read(place), predictions[place], images[place], context) for place in _spread(images)]
    return Measured({**loss_of(totals), **found.values}, {**found.details, "pictures": shown})


def said(predictions: Sequence[Any], rows: Sequence[Mapping[str, Any]], context: Context) -> Iterator[dict[str, Any]]:
    """The share of the picture that each class has, those that are in it."""
    assert context.labels is not None
    for prediction, row in zip(predictions, rows, strict=True):
        mask = masks.decoded(prediction.mask)
        pixels = np.bincount(mask.ravel(), minlength=len(context.labels))
        areas = {name: int(number) for name, number in zip(context.labels.names, pixels, strict=True) if number}
        shares = {name: round(number / mask.size, 6) for name, number in areas.items()}
        yield {"input": pictures.name(row), "size": list(mask.shape), "pixels": areas, "shares": shares}


def drawn(prediction: Any, row: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`mask`: classes as numbers, in order of the labels. `picture`: the same over the picture."""
    from PIL import Image

    assert context.labels is not None
    mask = masks.decoded(prediction.mask)
    return {
        "mask": Image.fromarray(mask),
        "picture": drawing.mask(pictures.read(row), mask, context.labels.names),
    }


def _dense(counts: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) pixels[reference][predicted]."""
    pixels = np.zeros((classes, classes), np.int64)
    pixels[counts[:, 0], counts[:, 1]] = counts[:, 2]
    return pixels


def _spread(images: Sequence[np.ndarray]) -> list[int]:
    """Places from the worst to the best, evenly, the two among them."""
    known = [place for place, pixels in enumerate(images) if pixels.sum()]
    order = sorted(known, key=lambda place: _iou(images[place]))
    number = min(MOST_PICTURES, len(order))
    return [order[round(i * (len(order) - 1) / max(1, number - 1))] for i in range(number)]


def _iou(pixels: np.ndarray) -> float:
    return float(np.nanmean(segmentation.ious(pixels)))


def _picture(row: Mapping[str, Any], prediction: Any, pixels: np.ndarray, context: Context) -> dict[str, Any]:
    assert context.labels is not None
    each = zip(context.labels.names, segmentation.ious(pixels), strict=True)
    ious = ", ".join(f"{name} {iou:.3f}" for name, iou in each if not np.isnan(iou))
    caption = f"mean IoU {_iou(pixels):.3f} ({ious})"
    return {"image": partial(_compared, row, prediction, context), "where": pictures.name(row), "caption": caption}


def _compared(row: Mapping[str, Any], prediction: Any, context: Context) -> Any:
    """The picture, the reference and the prediction beside each other."""
    assert context.labels is not None
    predicted, names = masks.decoded(prediction.mask), context.labels.names
    picture = pictures.read(row).resize(predicted.shape[::-1])
    reference = masks.classes(masks.numbers(pictures.stored(row, "mask"), row["where"]), context)
    reference = masks.resized(reference, predicted.shape)
    panels = [picture, *(drawing.mask(picture, mask, names) for mask in (reference, predicted))]
    return drawing.beside(*panels, titles=["picture", "reference", "predicted"])
