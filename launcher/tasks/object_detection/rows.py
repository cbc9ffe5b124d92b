"""Pictures with boxes to rows, and rows to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data import boxes, labels, pictures
from launcher.data.context import Context, Tools
from launcher.data.prepare import Columns

COLUMNS = Columns(
    {
        **pictures.kinds("image"),
        "boxes": "floats",  # x, y, width, height in pixels of the picture, one after the other
        "labels": "texts",
        "width": "int",
        "height": "int",
        "where": "text",
    }
)
CUT = "boxes cut at the border of the picture, by at most a pixel"


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    image, picture = pictures.first_read("image", example["image"], where)
    pictures.in_rgb(picture, where)
    given, names = _boxes(example, picture, tools, where) if tools.labelled else ([], [])
    tools.count("rows kept")
    tools.count("boxes", len(names))
    size = {"width": picture.width, "height": picture.height}
    yield {**image, **size, "boxes": given, "labels": names, "where": where}


def _boxes(example: Mapping[str, Any], picture: Any, tools: Tools, where: str) -> tuple[list[float], list[str]]:
    """Boxes one after the other, and the name of each one's label."""
    boxes.insist_on_frame(example.get("size"), picture.size, picture.info["stored_size"], where)
    names = [labels.text_of(value, where) for value in example["labels"]]
    found, cut = boxes.inside(example["boxes"], names, picture.size, where)
    if tools.labels:
        names = tools.labels.names_of((name, where) for name in names)
    if cut:
        tools.count(CUT, cut)
    return found.ravel().tolist(), names


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: the names of the labels."""
    assert context.labels is not None
    return context.labels.config()


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    """pixel_values (rows, channels, height, width) and, where the processor pads, pixel_mask (rows, height, width).

    class_labels (rows, most boxes) with -100 behind the last; boxes (rows, most boxes, 4) centre x, centre y, width, height as
    shares of the picture, padding aside; sizes (rows, 2), height and width of the pictures in their files. Without rows, a
    black picture of size 0 x 0, which counts nothing.
    """
    import torch

    found = [read(int(index)) for unit in units for index in unit]
    made = pictures.each(lambda row: _seen(pictures.read(row), context), found) or [_seen(pictures.black(), context)]
    sizes = [(row["height"], row["width"]) for row in found] or [(0, 0)]
    return {**_padded(made, context), **_targets(found, context), "sizes": torch.tensor(sizes)}


def _seen(picture: Any, context: Context) -> dict[str, np.ndarray]:
    seen = context.processor(images=picture, return_tensors="np")
    return {name: seen[name][0] for name in ("pixel_values", "pixel_mask") if name in seen}


def _padded(made: Sequence[Mapping[str, np.ndarray]], context: Context) -> dict[str, Any]:
    """Pictures above and left of zeros, as transformers pads them; the mask is 1 where a picture is."""
    import torch

    pixels = [each["pixel_values"].astype(np.float32, copy=False) for each in made]
    if "pixel_mask" not in made[0]:
        return {"pixel_values": pictures.together(pixels, context.processor)}
    height, width = np.max([of_picture.shape[1:] for of_picture in pixels], 0)
    values = torch.zeros(len(made), len(pixels[0]), height, width)
    mask = torch.zeros(len(made), height, width, dtype=torch.int64)
    for place, each in enumerate(made):
        tall, wide = each["pixel_mask"].shape
        values[place, :, :tall, :wide] = torch.from_numpy(pixels[place])
        mask[place, :tall, :wide] = torch.from_numpy(each["pixel_mask"])
    return {"pixel_values": values, "pixel_mask": mask}


def _targets(rows: Sequence[Mapping[str, Any]], context: Context) -> dict[str, Any]:
    import torch

    assert context.labels is not None
    shape = (max(1, len(rows)), max([1, *(len(row["labels"]) for row in rows)]))
    class_labels = torch.full(shape, labels.IGNORED)
    shares = torch.zeros(*shape, 4)
    for place, row in enumerate(rows):
        number = len(row["labels"])
        class_labels[place, :number] = torch.tensor([context.labels.numbers[name] for name in row["labels"]])
        given = np.asarray(row["boxes"], np.float64).reshape(-1, 4)
        shares[place, :number] = torch.from_numpy(boxes.relative(given, row["width"], row["height"]))
    return {"class_labels": class_labels, "boxes": shares}
