"""COCO files, and folders of Pascal VOC files."""

import re
import xml.etree.ElementTree as xml
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.data import pictures
from launcher.data.formats.cells import Row
from launcher.data.writers import naming
from launcher.data.writers.rows import dumped
from launcher.data.writers.writer import At, Facts, Writer

NO_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2; \r is read as \n
TOLERATED_PIXELS = 1e-6
SIZES = "pictures whose size is not said: it is filled in"


def _sized(row: Row, at: At) -> Row:
    """Other programs insist on width and height; those of the upright picture, in which the boxes are."""
    if "size" in row:
        return row
    at.change(SIZES)
    return {**row, "size": pictures.upright_size(row["image"], at.where)}


def _write_coco(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    images: list[Any] = []
    annotations: list[Any] = []
    categories: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        width, height = row["size"]
        images.append({"id": number, "file_name": row["image"], "width": width, "height": height})
        for box, label in zip(row["boxes"], row["labels"], strict=True):
            category = categories.setdefault(label, len(categories) + 1)
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append({**about, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    named = [{"id": number, "name": name} for name, number in categories.items()]
    path.write_text(dumped({"images": images, "annotations": annotations, "categories": named}) + "\n", "utf-8")


# --- Pascal VOC -------------------------------------------------------------------------------------------------------


def _hold_voc(row: Row, at: At) -> Row | None:
    labels = [NO_XML.sub("", label).strip() for label in row["labels"]]
    if not all(labels):
        return at.leave_out("with labels of which XML can hold nothing")
    if labels != row["labels"]:
        at.lose("characters of labels that XML cannot hold, and white space at their ends")
    return _sized({**row, "labels": labels, "boxes": [_cornered(box, at) for box in row["boxes"]]}, at)


def _cornered(box: list[float], at: At) -> list[float]:
    """As it comes back from two corners. The first is (x, y) itself, as our reader has it, though VOC counted from 1."""
    x, y, width, height = box
    held = [x, y, _side(x, width), _side(y, height)]
    off = max(abs(width - held[2]), abs(height - held[3]))
    if off > TOLERATED_PIXELS:
        at.lose("sides of boxes, which corners round by more than a millionth of a pixel")
    elif off:
        at.change("boxes whose sides corners round, by less than a millionth of a pixel")
    return held


def _side(start: float, length: float) -> float:
    """What is left of a length when its end has been rounded, and is rounded no more."""
    for _ in range(4):
        length = (start + length) - start
    return length


def _write_voc(rows: Iterable[Row], folder: Path, facts: Facts) -> None:
    below = folder / "Annotations"
    below.mkdir(parents=True)
    name_of = naming.annotations(facts)
    for number, row in enumerate(rows):
        root = xml.Element("annotation")
        _below(root, "filename", Path(row["image"]).name)
        size = xml.SubElement(root, "size")
        for name, side in zip(("width", "height", "depth"), (*row["size"], 3), strict=True):
            _below(size, name, str(side))
        for box, label in zip(row["boxes"], row["labels"], strict=True):
            _object(root, box, label)
        xml.indent(root)
        xml.ElementTree(root).write(below / name_of(number), encoding="utf-8")


def _object(root: xml.Element, box: list[float], label: str) -> None:
    item = xml.SubElement(root, "object")
    _below(item, "name", label)
    corners = xml.SubElement(item, "bndbox")
    x, y, width, height = box
    for name, place in zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + width, y + height), strict=True):
        _below(corners, name, repr(place).removesuffix(".0"))


def _below(parent: xml.Element, name: str, text: str) -> None:
    xml.SubElement(parent, name).text = text


COCO = Writer(kinds=("boxed_image",), hold=_sized, write=_write_coco, suffixes=(".json",), layout="coco")
VOC = Writer(
    kinds=("boxed_image",),
    hold=_hold_voc,
    write=_write_voc,
    layout="voc",
    loses={"boxed_image": "white space at the ends of labels, and control characters in them"},
    media_folder="JPEGImages",
    bare_names=True,
)
