"""Semantic segmentation: counts of pixels add up over images, and every number follows from their sum."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from launcher.errors import DataError
from launcher.metrics import Measured, finite, named, nothing
from launcher.metrics.counts import confusion, confusion_matrix


def counts(
    predicted: ArrayLike, reference: ArrayLike, num_classes: int, ignore_index: int = 255, where: str = ""
) -> NDArray[np.int64]:
    """(num_classes, num_classes) pixels[reference][predicted] of one image; both masks are (height, width) of class indices.

    Pixels with `ignore_index` in the reference do not count. DataError, located by `where`, for a reference that holds
    another number that is no class.
    """
    predicted, reference = np.asarray(predicted), np.asarray(reference)
    assert predicted.shape == reference.shape, (predicted.shape, reference.shape)
    counted = reference != ignore_index
    wanted, guessed = reference[counted], predicted[counted]
    if wanted.size and (wanted.min() < 0 or wanted.max() >= num_classes):
        outside = [str(n) for n in np.unique(wanted) if not 0 <= n < num_classes]
        raise DataError(
            f"the mask holds {named(outside)}, and classes are 0 to {num_classes - 1}",
            where=where,
            fix=f"give every pixel the index of its class, or {ignore_index} where it is not to count",
        )
    assert not guessed.size or (guessed.min() >= 0 and guessed.max() < num_classes), (guessed.min(), guessed.max())
    return confusion(wanted, guessed, num_classes)


def ious(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes,) intersection over union; NaN for a class that is in neither mask."""
    both = pixels.diagonal()
    return _share(both, pixels.sum(0) + pixels.sum(1) - both)


def dices(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes,) twice the intersection over the sum of the areas (Dice 1945): F1 of pixels; NaN as for `ious`."""
    return _share(2 * pixels.diagonal(), pixels.sum(0) + pixels.sum(1))


def from_counts(
    total_counts: NDArray[np.int64], labels: list[str], per_image_counts: Sequence[NDArray[np.int64]] | None = None
) -> Measured:
    """From the sum of `counts` over all images: mean_iou, mean_dice, mean_accuracy (of the classes) and pixel_accuracy, 0 to 1.

    A class that is in no reference and no prediction has no IoU and is not in the means. `per_image_counts` adds
    mean_iou_per_image and mean_dice_per_image: the mean over images of the mean over the classes that are in the image.
    """
    assert total_counts.shape == (len(labels), len(labels)), (total_counts.shape, len(labels))
    if not total_counts.sum():
        return nothing("no pixel counts")
    iou, dice = ious(total_counts), dices(total_counts)
    accuracy = _share(total_counts.diagonal(), total_counts.sum(1))
    notes: list[str] = []
    if absent := [label for label, value in zip(labels, iou, strict=True) if np.isnan(value)]:
        notes.append(f"in no reference and no prediction, and not in the means: {named(absent)}")
    values: dict[str, Any] = {
        "mean_iou": np.nanmean(iou),
        "mean_dice": np.nanmean(dice),
        "mean_accuracy": np.nanmean(accuracy),
    }
    values["pixel_accuracy"] = total_counts.trace() / total_counts.sum()
    values |= _per_image([pixels for pixels in per_image_counts or [] if pixels.sum()])
    details = {"confusion_matrix": confusion_matrix(total_counts, labels, notes)}
    details["table"] = _table(labels, iou, dice, accuracy, total_counts.sum(1))
    return finite(values, details, notes)


def _per_image(images: list[NDArray[np.int64]]) -> dict[str, Any]:
    if not images:
        return {}
    means = [(np.nanmean(ious(pixels)), np.nanmean(dices(pixels))) for pixels in images]
    iou, dice = np.mean(means, axis=0)
    return {"mean_iou_per_image": iou, "mean_dice_per_image": dice}


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.full(part.shape, np.nan)
    np.divide(part, whole, out=out, where=whole != 0)
    return out


def _table(labels: list[str], *columns: NDArray[Any]) -> dict[str, Any]:
    rows = [
        [None if value != value else value for value in row] for row in zip(*(c.tolist() for c in columns), strict=True)
    ]
    return {
        "columns": ["class", "iou", "dice", "accuracy", "pixels"],
        "rows": [[label, *row] for label, row in zip(labels, rows, strict=True)],
    }
