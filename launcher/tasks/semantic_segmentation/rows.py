"""Pictures with masks to rows, and rows to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data import masks, pictures
from launcher.data.context import Context, Tools
from launcher.data.masks import labels_found, labels_given
from launcher.data.prepare import Columns
from launcher.errors import DataError

COLUMNS = Columns(
    {**pictures.kinds("image"), **pictures.kinds("mask"), "labels": "texts", "where": "text"},
    places=("image", "mask", "where"),
)
NO_MASK = dict.fromkeys(pictures.kinds("mask"), "") | {"mask_bytes": b"", "labels": []}
__all__ = ["COLUMNS", "collate", "collate_eval", "head", "labels_found", "labels_given", "rows"]


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    image, picture = pictures.first_read("image", example["image"], where)
    pictures.in_rgb(picture, where)
    mask = _mask(example["mask"], picture.size, tools, where) if tools.labelled else NO_MASK
    tools.count("rows kept")
    yield {**image, **mask, "where": where}


def _mask(source: str | bytes, size: tuple[int, int], tools: Tools, where: str) -> dict[str, Any]:
    where = source if isinstance(source, str) else where
    columns, mask = pictures.first_read("mask", source, where)
    if mask.size != size:
        sizes = " x ".join(map(str, mask.size)), " x ".join(map(str, size))
        raise DataError(f"the mask is {sizes[0]} pixels, and its picture {sizes[1]}", where=where, fix=pictures.MEND)
    return {**columns, "labels": masks.names_in(masks.numbers(mask, where), tools, where)}


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: the names of the labels. A second head that only its own loss trains is left out."""
    assert context.labels is not None
    masks.insist_on_known(context, train.counts)
    masks.insist_on_ignored(train.all("labels"), context)
    return {**context.labels.config(), "use_auxiliary_head": False}


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    """pixel_values (rows, channels, height, width) and labels (rows, height, width) uint8, both as the model's processor makes
    them; sizes (rows, 2) of the pictures in their files. Without rows, a black picture of ignored pixels.
    """
    import torch

    found = [read(int(index)) for unit in units for index in unit]
    made = pictures.each(lambda row: _seen(pictures.read(row), _reference(row, context), context), found)
    made = made or [_seen(pictures.black(), None, context)]
    values = pictures.together([pixels for pixels, *_ in made], context.processor)
    labels = torch.from_numpy(np.stack([mask for _, mask, _ in made]))
    return {"pixel_values": values, "labels": labels, "sizes": torch.tensor([size for *_, size in made])}


def collate_eval(
    units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context
) -> dict[str, Any]:
    """And references: (rows, greatest height, greatest width) uint8, the masks as they are in their files."""
    import torch

    batch = collate(units, read, context)
    found = [_reference(read(int(index)), context) for unit in units for index in unit]
    height, width = batch["sizes"].max(0).values.tolist()
    references = np.full((len(batch["sizes"]), height, width), masks.IGNORED, np.uint8)
    for place, mask in enumerate(found):
        if mask is not None:
            references[place, : mask.shape[0], : mask.shape[1]] = mask
    return {**batch, "references": torch.from_numpy(references)}


def _reference(row: Mapping[str, Any], context: Context) -> np.ndarray | None:
    """(height, width) uint8 classes of a row's mask."""
    if not row["mask_digest"]:
        return None
    found = masks.classes(masks.numbers(pictures.stored(row, "mask"), row["where"]), context)
    return row["view"].mask(found) if "view" in row else found


def _seen(picture: Any, mask: np.ndarray | None, context: Context) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Picture and mask as the model sees them, and the height and width that they had."""
    height, width = picture.height, picture.width
    known = np.full((height, width), masks.IGNORED, np.uint8) if mask is None else mask
    found = context.processor(images=picture, segmentation_maps=known, do_reduce_labels=False, return_tensors="np")
    return found["pixel_values"][0].astype(np.float32), found["labels"][0].astype(np.uint8), (height, width)
