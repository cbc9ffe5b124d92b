"""Labelled pictures to rows, and rows to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launcher.data import labels, pictures
from launcher.data.context import Context, Tools
from launcher.data.prepare import Columns

COLUMNS = Columns(
    {**pictures.kinds("image"), "labels": "texts", "several": "int", "where": "text"}, places=("image", "where")
)


def rows(where: str, example: Mapping[str, Any], tools: Tools) -> Iterator[dict[str, Any]]:
    tools.count("rows read")
    given, several = labels.of_row(example.get("label"), tools, where) if tools.labelled else ([], False)
    image, picture = pictures.first_read("image", example["image"], where)
    pictures.in_rgb(picture, where)  # what cannot be is found now
    tools.count("rows kept")
    yield {**image, "labels": given, "several": int(several), "where": where}


def head(train: Any, context: Context) -> dict[str, Any]:
    """The model's configuration: the names of the labels, and whether a picture may have several."""
    return labels.head(train, context)


def collate(units: Sequence[Sequence[int]], read: Callable[..., Mapping[str, Any]], context: Context) -> dict[str, Any]:
    found = [read(int(index)) for unit in units for index in unit]
    return {
        "pixel_values": pictures.pixels(found, context.processor),
        "labels": labels.targets([row["labels"] for row in found], context),
    }
