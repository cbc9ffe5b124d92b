"""Boxes in pictures: [x, y, width, height] in pixels where they are read and kept, other forms where they are computed with."""

from collections.abc import Sequence

import numpy as np

from launcher.errors import DataError

SLACK_PIXELS = 1.0  # tools count pixels from 0 or from 1, and some round outward
MEND = "mend the row, or set data.on_error: skip"


def inside(
    boxes: Sequence[Sequence[float]], labels: Sequence[str], size: tuple[int, int], where: str
) -> tuple[np.ndarray, int]:
    """(n, 4) boxes, cut where they reach over the border by at most a pixel, and how many were cut.

    size: width and height of the picture. DataError for a box that reaches farther, has no area, or is not finite.
    """
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(given) != len(labels):
        raise DataError(f"{len(given)} boxes and {len(labels)} labels; each box needs one", where=where, fix=MEND)
    _insist(np.isfinite(given.sum(1)), "is not finite", given, labels, where)
    whole = corners(given)
    cut = np.clip(whole, 0, [*size, *size])
    reaches = np.abs(whole - cut).max(1, initial=0)
    picture = f"reaches out of the picture of {size[0]} x {size[1]} pixels"
    _insist(reaches <= SLACK_PIXELS, picture, given, labels, where)
    areas = np.minimum(cut[:, 2:] - cut[:, :2], given[:, 2:]).min(1, initial=np.inf)
    _insist(areas > 0, "has no area", given, labels, where)
    return np.concatenate([cut[:, :2], cut[:, 2:] - cut[:, :2]], 1), int((reaches > 0).sum())


def insist_on_frame(said: tuple[int, int] | None, size: tuple[int, int], stored: tuple[int, int], where: str) -> None:
    """DataError where a file says that its boxes belong to a picture of another size than the upright one.

    Each is width and height; `stored`: before the picture is turned upright.
    """
    if said in (None, size):
        return
    shown, upright = (" x ".join(map(str, pixels)) for pixels in (said, size))
    if said == stored:
        raise DataError(
            f"the boxes are drawn in the picture as it is stored, {shown} pixels, and upright, as its EXIF orientation has it, "
            f"it is {upright}",
            where=where,
            fix="draw them anew or remove the orientation, or set data.on_error: skip",
        )
    raise DataError(f"the boxes are for a picture of {shown} pixels, and this one is {upright}", where=where, fix=MEND)


def corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) x, y, width, height -> x1, y1, x2, y2."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def relative(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(n, 4) x, y, width, height in pixels -> centre x, centre y, width, height as shares of the picture, fp32."""
    centred = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)
    shares: np.ndarray = (centred / [width, height, width, height]).astype(np.float32)
    return shares


def _insist(good: np.ndarray, problem: str, boxes: np.ndarray, labels: Sequence[str], where: str) -> None:
    for number in np.flatnonzero(~good)[:1]:
        values = ", ".join(f"{value:g}" for value in boxes[number])
        raise DataError(f"box {number} ({labels[number]}), [{values}], {problem}", where=where, fix=MEND)
