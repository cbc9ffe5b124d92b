"""Masks: one number a pixel in the file, and the class that it stands for.

Classes are 0, 1, ... in the order of the labels, and 255 where a pixel does not count. Which number that is in the file,
`data.ignore_index` says; where it does not, 255, unless 255 stands for a label.
"""

import io
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from launcher import log
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.errors import DataError, RecipeError
from launcher.schema import Data

if TYPE_CHECKING:
    from PIL.Image import Image

IGNORED = 255  # as a class, and as transformers' models have it
MOST_CLASSES = 255
GREATEST = 65535
ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
IGNORED_COUNT = "masks with pixels of 255, which are ignored"


def numbers(mask: "Image", where: str) -> np.ndarray:
    """(height, width) the numbers in a mask: of a palette, the indices. DataError where there is not one for each pixel."""
    if mask.format == "JPEG":
        raise DataError("a mask cannot be a JPEG, which changes the numbers", where=where, fix="write it as PNG")
    if mask.mode not in ONE_CHANNEL:
        raise DataError(
            f"a mask has one number a pixel, and this one is {mask.mode}",
            where=where,
            fix="write for each pixel the number of its class, in a picture with one channel",
        )
    found = np.asarray(mask)
    if found.dtype.itemsize > 2 and (found.min() < 0 or found.max() > GREATEST):
        raise DataError(f"the mask has numbers outside 0 to {GREATEST}", where=where)
    return found.astype(np.uint16 if found.dtype.itemsize > 1 else np.uint8)


def names_in(found: np.ndarray, tools: Tools, where: str) -> list[str]:
    """The labels in a mask, those that are ignored aside: the numbers themselves where it is not known yet which there are."""
    values = [str(value) for value in np.flatnonzero(np.bincount(found.ravel()))]
    values = [value for value in values if value != str(tools.data.ignore_index)]
    if tools.labels is None:
        return values
    if tools.data.ignore_index is None and str(IGNORED) in values and str(IGNORED) not in tools.labels.values:
        tools.count(IGNORED_COUNT)
        values.remove(str(IGNORED))
    return list(dict.fromkeys(tools.labels.names_of((value, where) for value in values)))


def labels_given(data: Data) -> Labels:
    """From `data.labels`: names of 0, 1, ..., or a mapping of the numbers in a mask to names."""
    assert data.labels is not None
    names = data.labels
    given = dict(names) if isinstance(names, Mapping) else {str(number): name for number, name in enumerate(names)}
    if str(data.ignore_index) in given:
        raise RecipeError(
            f"data.ignore_index: {data.ignore_index} stands for {given[str(data.ignore_index)]} under data.labels",
            fix="take one of them out",
        )
    return Labels.listed(given)


def labels_found(values: Iterable[str]) -> Labels:
    """From what occurs: 255 is a label beside a single other number, as in masks of black and white, and else ignored."""
    found = Labels.found(values)
    without = [name for name in found.names if name != str(IGNORED)]
    return Labels.found(without) if len(without) > 1 else found


def insist_on_known(context: Context, counts: Mapping[str, int]) -> None:
    """DataError where 255 is probably the label that is missing, or where there are too many."""
    assert context.labels is not None
    labels = context.labels
    if len(labels) > MOST_CLASSES:
        raise DataError(
            f"the masks have {len(labels)} different numbers, and {MOST_CLASSES} classes are the most",
            fix="are they masks? Or name the numbers under data.labels",
        )
    absent = [name for name, count in zip(labels.names, context.label_counts, strict=True) if not count]
    if absent and counts.get(IGNORED_COUNT):
        raise DataError(
            f"no mask has {absent[0]}, and 255, which {counts[IGNORED_COUNT]} masks have, is ignored",
            fix='name it under data.labels, {"255": ...}, or set data.ignore_index: 255',
        )


def insist_on_ignored(rows: Iterable[Collection[str]], context: Context) -> None:
    """Where data.labels is not given: says how many of the rows, which hold numbers, have 255 though it is no label.

    DataError where it is probably one: more of them have it than have the rarest label, or data.ignore_index says another.
    """
    assert context.labels is not None
    if context.data.labels is not None or str(IGNORED) in context.labels.values:
        return
    number = sum(str(IGNORED) in row for row in rows)
    rarest, name = min(zip(context.label_counts, context.labels.names, strict=True))
    if number and (number > rarest or context.data.ignore_index is not None):
        raise DataError(
            f"{number} masks have pixels of 255, which may be a label: {rarest} have the label {name}",
            fix="list data.labels, or set data.ignore_index: 255 if it is none",
        )
    if number:
        log.say(f"data.train: {number:,} {IGNORED_COUNT}")


def classes(found: np.ndarray, context: Context) -> np.ndarray:
    """(height, width) uint8: the class of each pixel."""
    assert context.labels is not None
    of_number = np.full(GREATEST + 1, IGNORED, np.uint8)
    for value, name in context.labels.values.items():
        of_number[int(value)] = context.labels.numbers[name]
    known: np.ndarray = of_number[found]
    return known


def encoded(mask: np.ndarray) -> bytes:
    """A mask (height, width) of classes as the bytes of a PNG: a hundredth of its size."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture)


def resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) of another size; each pixel has the class of the nearest."""
    from PIL import Image

    if mask.shape == size:
        return mask
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def small_size(height: int, width: int, most: int) -> tuple[int, int]:
    """Of a copy with the same proportions and at most so many pixels a side."""
    factor = min(1.0, most / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))
