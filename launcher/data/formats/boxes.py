"""Pictures with boxes around what is in them: rows, COCO files, Pascal VOC files.

A box is [x, y, width, height] in pixels; a label is the name of a category.
"""

import math
import os
import re
import xml.etree.ElementTree as xml  # expat 2.4.1 and later bounds what entities expand to; external ones are not read
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher import log
from launcher.data.formats.cells import Cells, Row, names
from launcher.data.formats.layout import PICTURES, Layout, files_below, first_file, head
from launcher.data.formats.media import media
from launcher.data.readers import Read, json_of
from launcher.errors import DataError
from launcher.schema import Source

COCO_KEYS = ("images", "annotations", "categories")
VOC_FOLDERS = (".", "../JPEGImages", "../images")  # seen from the xml file


def boxed_image(cells: Cells) -> Row:
    """{image, boxes, labels} with `size`, width and height, where the data says for which picture the boxes are."""
    example: Row = {"image": media(cells, "image")}
    if (size := _said_size(cells)) is not None:
        example["size"] = size
    if not cells.answered("boxes", "labels"):
        return example
    boxes = [_box(cells, number, box) for number, box in enumerate(cells.items("boxes"))]
    labels = names(cells, "labels", "label")
    if len(boxes) != len(labels):
        raise cells.error(f"{len(boxes)} boxes and {len(labels)} labels; each box needs one")
    return {**example, "boxes": boxes, "labels": labels}


def _said_size(cells: Cells) -> tuple[int, int] | None:
    size = cells.get("size")
    if size is None:
        return None
    is_size = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)
    if not is_size or min(size) < 1:
        raise cells.error(
            f"{cells.said('size')} must be [width, height] of the picture in pixels, not {size!r:.100}",
            "name another column with columns: {size: ...}, or leave it out",
        )
    return size[0], size[1]


def _box(cells: Cells, number: int, box: Any) -> list[float]:
    is_box = isinstance(box, list | tuple) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    if not is_box or not all(map(math.isfinite, box)):
        raise cells.error(f"box {number} must be four finite numbers [x, y, width, height], not {box!r:.100}")
    return [float(side) for side in box]


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height; None where they are not said, or 0, as some tools write that they do not know them."""
    try:
        size = round(float(width)), round(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


# --- COCO: https://cocodataset.org/#format-data -----------------------------------------------------------------------


def _coco(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    whole = json_of(path)
    for key in COCO_KEYS:
        is_needed = labelled or key == "images"
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list if is_needed else list | None):
            raise DataError(f"not a COCO file: it holds no list of {key}", where=str(path))
    categories = _by_id(path, whole, "categories")
    _insist_on_one_each(path, whole, "categories", "name")
    _insist_on_one_each(path, whole, "annotations", "id")
    of_image, strays = _boxes_by_image(path, whole, _by_id(path, whole, "images"))
    yield from strays
    for image in whole["images"]:
        where = f"{path} image {image['id']} ({image.get('file_name')})"
        row = {"image": image.get("file_name"), "size": _size(image.get("width"), image.get("height"))}
        has_boxes = whole.get("annotations") is not None
        yield where, _annotated(row, of_image[image["id"]], categories, where) if has_boxes else row


def _by_id(path: Path, whole: Row, key: str) -> dict[Any, Row]:
    found: dict[Any, Row] = {}
    _insist_on_one_each(path, whole, key, "id")
    for number, item in enumerate(whole.get(key) or ()):
        if not isinstance(item, dict) or not isinstance(item.get("id"), int | str):
            raise DataError("has no id", where=f"{path} {key}[{number}]")
        found[item["id"]] = item
    return found


def _insist_on_one_each(path: Path, whole: Row, key: str, what: str) -> None:
    """DataError where two of a list have the same id or the same name."""
    seen: set[Any] = set()
    for number, item in enumerate(whole.get(key) or ()):
        value = item.get(what) if isinstance(item, dict) else None
        if isinstance(value, int | str) and value in seen:
            raise DataError(f"the {what} {value} is another's as well", where=f"{path} {key}[{number}]")
        seen |= {value} if isinstance(value, int | str) else set()


def _boxes_by_image(path: Path, whole: Row, images: Mapping[Any, Row]) -> tuple[dict[Any, list[Row]], list[Read]]:
    """Image id -> annotations, and those of no image. Crowds are left out: one box around many things, which no detector
    is to learn as one."""
    of_image: dict[Any, list[Row]] = defaultdict(list)
    strays: list[Read] = []
    crowds = 0
    for number, annotation in enumerate(whole.get("annotations") or ()):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, int | str) or image not in images:
            where = f"{path} annotations[{number}]"
            strays.append((where, DataError(f"the image {image} is not in the file", where=where)))
        elif annotation.get("iscrowd"):
            crowds += 1
        else:
            of_image[image].append(annotation)
    if crowds:
        log.say_once(f"note: {path}: {crowds} crowd annotations are left out")
    return of_image, strays


def _annotated(row: Row, annotations: list[Row], categories: Mapping[Any, Row], where: str) -> Row | DataError:
    labels = []
    for annotation in annotations:
        number = annotation.get("category_id")
        category = categories.get(number) if isinstance(number, int | float | str) else None
        if category is None or "name" not in category or "bbox" not in annotation:
            lacks = "bbox" if "bbox" not in annotation else "category of this file that has a name"
            return DataError(f"the annotation {annotation.get('id')} has no {lacks}", where=where)
        labels.append(category["name"])
    return {**row, "boxes": [annotation["bbox"] for annotation in annotations], "labels": labels}


# --- Pascal VOC: http://host.robots.ox.ac.uk/pascal/VOC ---------------------------------------------------------------


def _voc(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    files, _ = files_below(path, [".xml"])
    for file in files:
        try:
            root = xml.parse(file).getroot()
            image = _picture_of(file, root, source)
            objects = [_object(file, number, item) for number, item in enumerate(root.findall("object"))]
        except xml.ParseError as error:
            yield str(file), DataError(f"not XML: {error}", where=str(file))
        except DataError as error:
            yield str(file), error
        else:
            size = _size(root.findtext("size/width"), root.findtext("size/height"))
            row = {"boxes": [box for _, box in objects], "labels": [name for name, _ in objects]}
            yield str(file), {"image": image, "size": size, **row}


def _picture_of(file: Path, root: xml.Element, source: Source) -> str:
    """What the file calls it, or the one that is called as the file is: many tools write another name."""
    folders = [Path(source.media)] if source.media else [file.parent / folder for folder in VOC_FOLDERS]
    named = Path((root.findtext("filename") or "").strip())
    stems = {named.name: None, **dict.fromkeys(f"{file.stem}{suffix}" for suffix in (*PICTURES, ".JPG", ".PNG"))}
    for name in filter(None, stems):
        for folder in folders:
            if (folder / name).is_file():
                return os.path.abspath(folder / name)
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(f"no picture {named.name or file.stem} in {looked}", where=str(file), fix="set data.*.media")


def _object(file: Path, number: int, item: xml.Element) -> tuple[str, list[float]]:
    """Width is xmax - xmin, as in the usual conversions to COCO, though VOC's corners are pixels that belong to the box."""
    where = f"{file} object[{number}]"
    name = (item.findtext("name") or "").strip()
    corners = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(str(corner)) for corner in corners)
    except ValueError:
        raise DataError(f"the bndbox must have four numbers, not {corners}", where=where) from None
    if not name:
        raise DataError("has no name", where=where)
    return name, [left, top, right - left, bottom - top]


COCO = Layout(
    read=_coco,
    holds=lambda path, source: _looks_like_coco(head(path)),
    is_folder=False,
    looks='a COCO file: {"images": [...], "annotations": [...], "categories": [...]}',
    suffixes=(".json",),
    media=True,
)
VOC = Layout(
    read=_voc,
    holds=lambda path, source: first_file(path, [".xml"], depth=3) is not None,
    is_folder=True,
    looks="xml files, each beside its picture or in a folder beside images/ or JPEGImages/",
    suffixes=(".xml",),
    media=True,
)


def _looks_like_coco(text: str) -> bool:
    return text.lstrip().startswith("{") and re.search(rf'"({"|".join(COCO_KEYS)})"\s*:\s*\[', text) is not None
