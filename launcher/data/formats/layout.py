"""Data that is not stored as a table of rows: how it is recognised and read, and what a recipe may say about it."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher import log
from launcher.data.readers import Read
from launcher.schema import Source

HEAD_CHARACTERS = 1 << 16
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")


@dataclass(frozen=True)
class Layout:
    """A file or a folder that yields rows under our own column names."""

    read: Callable[[Path, Source, bool], Iterator[Read]]
    """(path, source, are the answers needed) -> (where, row)."""
    holds: Callable[[Path, Source], bool]
    """Whether a file or folder looks like it, told from its names and first bytes."""
    is_folder: bool
    """A folder as a whole; otherwise one file, or every file of a folder that has one of `suffixes`."""
    looks: str
    """What it looks like, in words."""
    suffixes: tuple[str, ...] = ()
    """Of the files that are read, besides pictures and sounds."""
    columns: Literal["names", "positions", "folders"] | None = None
    """What the values of `columns` are; None: there is nothing to name."""
    media: bool = False
    """Whether `media` says where its pictures or sounds are."""


def head(path: Path) -> str:
    """The beginning of a text file; nothing where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as text:
            return text.read(HEAD_CHARACTERS)
    except OSError:
        return ""


def files_below(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files with one of these suffixes, and those without; sorted, hidden ones and hidden folders left out.

    A link is followed unless it leads to a folder that is read anyway, or to one above: its files would count twice.
    """
    chosen: list[Path] = []
    others: list[Path] = []
    real = Path(os.path.realpath(folder))
    seen = {real, *real.parents}
    for here, folders, names in os.walk(folder, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if _is_new(Path(here, name), real, seen)]
        for name in names:
            if not name.startswith("."):
                (chosen if name.lower().endswith(tuple(suffixes)) else others).append(Path(here, name))
    return sorted(chosen), sorted(others)


def _is_new(folder: Path, root: Path, seen: set[Path]) -> bool:
    """Whether a folder is none of those seen so far, of which it is one from now on, nor a link to one that is still to come."""
    real = Path(os.path.realpath(folder))
    below = real.relative_to(root).parts if folder.is_symlink() and real.is_relative_to(root) else (".",)
    if real in seen or not any(name.startswith(".") for name in below):
        log.say_once(f"note: {folder} is left out: it is {real}, which is read anyway or holds what is read")
        return False
    seen.add(real)
    return True


def first_file(folder: Path, suffixes: Sequence[str], depth: int = 2) -> Path | None:
    """One file with such a suffix, at most so many folders down; never a long search."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return None
    for entry in entries:
        if entry.name.lower().endswith(tuple(suffixes)) and entry.is_file():
            return Path(entry.path)
    below = (first_file(Path(entry.path), suffixes, depth - 1) for entry in entries if depth > 1 and entry.is_dir())
    return next((found for found in below if found), None)
