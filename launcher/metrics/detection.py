"""Object detection: COCO's average precision and recall, computed by faster_coco_eval."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.metrics import Measured, finite, named, nothing
from launcher.metrics.ranking import curves

_ALL, _AREAS = 0, ("all", "small", "medium", "large")
_BEST_100 = -1  # COCO counts the best 1, 10 and 100 boxes of a class in an image
_IOU_50, _IOU_75 = 0, 5  # of 0.50, 0.55, ... 0.95

Boxes = dict[str, Any]


def detections(predicted: list[Boxes], references: list[Boxes], labels: list[str]) -> Measured:
    """COCO's metrics of bounding boxes, 0 to 1. Lists of an entry an image, in the same order.

    An entry of `references` holds `boxes` (n, 4), [x1, y1, x2, y2] in pixels, and `labels` (n,), class indices; one of
    `predicted` also `scores` (n,). `map` is the average precision (over 101 recalls) averaged over IoU 0.50 to 0.95 and over
    the classes with a reference box; `map_50` and `map_75` are at one IoU; `map_small`, `map_medium` and `map_large` of boxes
    below 32², between, and from 96² pixels; `mar_100` is the recall of the best 100 boxes a class and image, averaged likewise.
    """
    assert len(predicted) == len(references), (len(predicted), len(references))
    if broken := sum(not _is_finite(entry) for entry in predicted):
        return nothing(f"boxes or scores of {broken:,} of {len(predicted):,} images are not finite")
    boxes = sum(len(entry["labels"]) for entry in references)
    if not boxes:
        return nothing("there are no reference boxes")
    precision, recall = _evaluate(predicted, references, labels)
    values, notes = _summary(precision, recall)
    wanted, given = _number_of_boxes(references, len(labels)), _number_of_boxes(predicted, len(labels))
    if absent := [label for label, n in zip(labels, wanted, strict=True) if not n]:
        notes.append(f"without a reference box, and not in the means: {named(absent)}")
    details = {"table": _table(labels, precision, wanted, given), "curves": _curves(labels, precision, wanted)}
    return finite(values, details, notes)


def _evaluate(
    predicted: list[Boxes], references: list[Boxes], labels: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (IoUs, recalls, classes, areas, box limits) and recall (the same without recalls); -1 where there is none."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(
        {
            "images": [{"id": number} for number in range(len(references))],
            "categories": [{"id": number, "name": label} for number, label in enumerate(labels)],
            "annotations": _annotations(references),
        },
        print_function=_silent,
    )
    evaluation = COCOeval_faster(truth, truth.loadRes(_annotations(predicted)), "bbox", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _silent(*_: Any) -> None:
    """In place of the library's printing."""


def _annotations(entries: list[Boxes]) -> list[dict[str, Any]]:
    """COCO's dictionaries, [x, y, width, height]; ids count from 1, because 0 means `unmatched` to it."""
    found: list[dict[str, Any]] = []
    for image, entry in enumerate(entries):
        corners = np.asarray(entry["boxes"], np.float64).reshape(-1, 4)
        sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
        scores = np.asarray(entry.get("scores", np.ones(len(corners))), np.float64)
        rows = zip(np.hstack([corners[:, :2], sizes]).tolist(), scores.tolist(), entry["labels"], strict=True)
        for box, score, label in rows:
            one = {"id": len(found) + 1, "image_id": image, "category_id": int(label), "bbox": box, "score": score}
            found.append({**one, "area": box[2] * box[3], "iscrowd": 0})
    return found


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> tuple[dict[str, float], list[str]]:
    means = {"map": precision[:, :, :, _ALL, _BEST_100]}
    means["map_50"], means["map_75"] = means["map"][_IOU_50], means["map"][_IOU_75]
    means |= {f"map_{area}": precision[:, :, :, i, _BEST_100] for i, area in enumerate(_AREAS) if i != _ALL}
    means["mar_100"] = recall[:, :, _ALL, _BEST_100]
    values = {name: float(of[of > -1].mean()) for name, of in means.items() if (of > -1).any()}
    return values, [f"{name} is left out: no reference box is of that size" for name in means if name not in values]


def _table(
    labels: list[str], precision: NDArray[np.float64], wanted: NDArray[np.int64], given: NDArray[np.int64]
) -> dict[str, Any]:
    of_class = precision[:, :, :, _ALL, _BEST_100].mean(1)  # (IoUs, classes)
    rows = [
        [
            label,
            *([float(of_class[:, i].mean()), float(of_class[_IOU_50, i])] if n else [None, None]),
            int(n),
            int(given[i]),
        ]
        for i, (label, n) in enumerate(zip(labels, wanted, strict=True))
    ]
    return {"columns": ["class", "ap", "ap_50", "references", "predictions"], "rows": rows}


def _curves(labels: list[str], precision: NDArray[np.float64], wanted: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Precision at IoU 0.5 by recall in steps of 0.01, interpolated as COCO does: the best at this recall or above."""
    at_50 = precision[_IOU_50, :, :, _ALL, _BEST_100]
    recalls = np.linspace(0, 1, len(at_50)).round(2)
    frequent = [i for i in np.sort(np.argsort(-wanted, kind="stable")[:10]) if wanted[i]]
    return curves({labels[i]: np.stack([recalls, at_50[:, i]], 1).tolist() for i in frequent})


def _number_of_boxes(entries: list[Boxes], classes: int) -> NDArray[np.int64]:
    numbers = np.array([int(label) for entry in entries for label in entry["labels"]], np.int64)
    return np.bincount(numbers, minlength=classes)


def _is_finite(entry: Boxes) -> bool:
    return all(np.isfinite(np.asarray(entry[name], np.float64)).all() for name in ("boxes", "scores"))


# --- a single picture -------------------------------------------------------------------------------------------------


def hits(predicted: Boxes, references: Boxes, least_iou: float = 0.5) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which predicted boxes stand for a reference box of their class, and which reference boxes are stood for.

    As COCO pairs them: the surest chooses first, the one that it overlaps with most.
    """
    found, taken = np.zeros(len(predicted["labels"]), bool), np.zeros(len(references["labels"]), bool)
    overlaps = ious(predicted["boxes"], references["boxes"])
    overlaps[np.asarray(predicted["labels"])[:, None] != np.asarray(references["labels"])[None, :]] = 0
    for place in np.argsort(-np.asarray(predicted["scores"], np.float64), kind="stable"):
        left = np.where(taken, 0, overlaps[place])
        if left.size and left.max() >= least_iou:
            found[place] = taken[left.argmax()] = True
    return found, taken


def ious(a: Any, b: Any) -> NDArray[np.float64]:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4) x1, y1, x2, y2."""
    first, second = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a, b))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.maximum(high - low, 0).prod(-1)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - both
    shares: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares
