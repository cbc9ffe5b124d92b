"""Pictures with a label, and pictures with a mask: rows, and folders."""

from collections.abc import Iterator
from pathlib import Path

from launcher.data.formats.cells import Cells, Row, label
from launcher.data.formats.layout import PICTURES, Layout, files_below
from launcher.data.formats.media import class_folders, media, say_left_out
from launcher.data.readers import Read
from launcher.errors import DataError
from launcher.schema import Source

IMAGE_FOLDER = class_folders("image", PICTURES, "pictures")


def labelled_image(cells: Cells) -> Row:
    example: Row = {"image": media(cells, "image")}
    return {**example, "label": label(cells)} if cells.answered("label") else example


def masked_image(cells: Cells) -> Row:
    example: Row = {"image": media(cells, "image")}
    return {**example, "mask": media(cells, "mask")} if cells.answered("mask") else example


def folders_of(path: Path, source: Source) -> tuple[Path, Path]:
    """Where the pictures and where their masks are."""
    return path / source.columns.get("image", "images"), path / source.columns.get("mask", "masks")


def _mask_folder(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    """A picture and its mask have the same name but for the suffix."""
    images, masks = (_by_stem(folder) for folder in folders_of(path, source))
    alone = [files[0] for stem, files in masks.items() if stem not in images]
    say_left_out(path, alone, "are masks of no picture")
    for stem, pictures in images.items():
        where, found = str(pictures[0]), masks.get(stem, [])
        if len(pictures) > 1 or len(found) > 1:
            yield where, DataError(f"several pictures or masks are named {stem}", where=where)
        elif labelled and not found:
            yield where, DataError(f"has no mask {stem}.* in {folders_of(path, source)[1]}", where=where)
        else:
            yield where, {"image": where, **({"mask": str(found[0])} if found else {})}


def _by_stem(folder: Path) -> dict[Path, list[Path]]:
    found, others = files_below(folder, PICTURES)
    say_left_out(folder, others, f"have none of the suffixes {', '.join(PICTURES)}")
    by_stem: dict[Path, list[Path]] = {}
    for file in found:
        by_stem.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    return by_stem


MASK_FOLDER = Layout(
    read=_mask_folder,
    holds=lambda path, source: all(folder.is_dir() for folder in folders_of(path, source)),
    is_folder=True,
    looks="the folders images and masks (or what columns: {image: ..., mask: ...} names)",
    columns="folders",
)
