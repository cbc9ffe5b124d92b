"""Pictures and sounds that rows name, and folders that are made of them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from launcher import log
from launcher.data.formats.cells import Cells, kind
from launcher.data.formats.layout import Layout, files_below, first_file
from launcher.data.readers import Read
from launcher.errors import DataError, printable

MEDIA = ("image", "mask", "audio")  # our columns that hold them


def named_file(cell: Any, folder: Path) -> Path | None:
    """The file that a cell names, None where the cell names none: it holds bytes, or {bytes, path} as on the hub."""
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None else None
    return folder / cell if isinstance(cell, str | Path) and str(cell).strip() else None


def media(cells: Cells, name: str) -> str | bytes:
    """An absolute path, or the bytes of the file where they stand in the cell."""
    cell = cells.answer(name)
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        if not content:
            raise cells.error(f"{cells.said(name)} holds no bytes")
        return content
    path = named_file(cell, cells.folder)
    if path is None:
        raise cells.error(f"{cells.said(name)} must be the name of a file or its bytes, not {kind(cell)}")
    if not os.path.isfile(path):
        raise cells.error(*_missing(path, is_relative=path != named_file(cell, Path())))
    found = os.path.abspath(path)
    if printable(found) != found:
        raise cells.error(f"the name {found} is not UTF-8", "rename the file or its folder")
    return found


def _missing(path: Path, is_relative: bool) -> tuple[str, str]:
    """The problem, and what to do."""
    if path.is_symlink():
        return (
            f"{path} is a link to {os.path.realpath(path)}, which is no file",
            "put the file there or remove the link",
        )
    return f"there is no file {path}", "names are relative to data.*.media" if is_relative else ""


def in_classes(path: Path, column: str, suffixes: Sequence[str], labelled: bool) -> Iterator[Read]:
    """path/CLASS/*: the label is the folder's name. Without labels, files may lie in `path` itself."""
    found, others = files_below(path, suffixes)
    say_left_out(path, others, f"have none of the suffixes {', '.join(suffixes)}")
    for file in found:
        folders = file.relative_to(path).parts[:-1]
        if labelled and not folders:
            yield str(file), DataError("stands in no class folder", where=str(file), fix="move it to CLASS/ beside it")
        else:
            yield str(file), {column: str(file), **({"label": folders[0]} if folders else {})}


def say_left_out(path: Path, files: Sequence[Path], reason: str) -> None:
    if files:
        log.say_once(f"note: {path}: {len(files)} files are left out, {files[0].name} for one: they {reason}")


def class_folders(column: str, suffixes: tuple[str, ...], what: str) -> Layout:
    return Layout(
        read=lambda path, source, labelled: in_classes(path, column, suffixes, labelled),
        holds=lambda path, source: first_file(path, suffixes) is not None,
        is_folder=True,
        looks=f"a folder for every class with {what} in it",
    )


def media_digest(files: Iterable[Path], root: Path) -> str:
    """Of every file's path below `root`, size and content; the files are read once."""
    with ThreadPoolExecutor(8) as pool:
        lines = sorted(pool.map(lambda file: f"{os.path.relpath(file, root)} {_content(file)}", files))
    return f"{len(lines)} {xxh3_128(chr(10).join(lines).encode(errors='surrogatepass')).hexdigest()}"


def _content(file: Path) -> str:
    digest, size = xxh3_128(), 0
    try:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
                size += len(block)
    except (OSError, ValueError):  # ValueError: no file can have this name
        return "cannot be read"  # a row that cannot be used, until somebody puts the file there
    return f"{size} {digest.hexdigest()}"
