"""Pictures and sounds of a converted data set: named where they are, or copied into it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from launcher.data.formats.cells import Row
from launcher.data.formats.media import MEDIA
from launcher.data.writers import naming
from launcher.data.writers.writer import Facts, Place, Writer
from launcher.errors import DataError

COPY = "add --copy-media"


def columns_in(row: Row) -> list[str]:
    return [name for name in MEDIA if name in row]


def contents(row: Row) -> dict[str, Any]:
    """For each picture or sound of a row, what tells whether another is the same: a digest of its bytes."""
    return {name: xxh3_128_hexdigest(_bytes(row[name], str(row[name]))) for name in columns_in(row)}


def references(row: Row) -> dict[str, Any]:
    """The same where nothing is copied: the file itself, or a digest of its bytes where there is none."""
    files = {name: row[name] for name in columns_in(row)}
    return {
        name: xxh3_128_hexdigest(file) if isinstance(file, bytes) else os.path.realpath(file)
        for name, file in files.items()
    }


def reference(path: str, folder: Path) -> str:
    """Relative to the folder; absolute where a link leads to the folder, since `..` would lead elsewhere."""
    here = os.path.abspath(folder)
    return os.path.relpath(path, here) if os.path.realpath(here) == here else path


def in_one_folder(facts: Facts) -> Path:
    """Of all pictures. DataError where there are several, or pictures in no file."""
    folders = {str(Path(path).parent) if path else "" for _, path in facts.files}
    if len(folders) > 1 or "" in folders:
        raise DataError(
            "the pictures are in several folders, or in no files, and the format names one folder", fix=COPY
        )
    return Path(folders.pop())


def insist_on_files(facts: Facts, writer: Writer, to: str) -> None:
    """DataError where the data holds the bytes themselves, which the format names and does not hold."""
    if not writer.bytes_inside and facts.has_bytes:
        raise DataError(f"the rows hold pictures or sounds themselves, and {to} holds names of files", fix=COPY)


@dataclass
class Copies:
    """Copies of pictures and sounds below `root`. What is named twice is copied once, unless each row has its own `place`."""

    root: Path
    folder: str
    place: Place | None
    kind: str
    done: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def of_row(self, row: Row, number: int, where: str) -> Mapping[str, str]:
        """{column: name below the root}, after copying."""
        return {name: self._copy(row[name], name, number, where) for name in columns_in(row)}

    def _copy(self, medium: str | bytes, column: str, number: int, where: str) -> str:
        path = medium if isinstance(medium, str) else ""
        if path in self.done and self.place is None:
            return self.done[path]
        content = _bytes(medium, where)
        suffix = naming.suffix_of(content, path, where)
        name = self.place(number, column, suffix) if self.place else self._free(path, suffix, column, number)
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if path:
            self.done[path] = name
        return name

    def _free(self, path: str, suffix: str, column: str, number: int) -> str:
        """The file's own name, or a number where it has none or another file has it."""
        folder = f"{self.folder}/{column}s/" if self.kind == "masked_image" else self.folder and f"{self.folder}/"
        name = Path(path).name
        if not naming.PLAIN.fullmatch(name) or Path(name).suffix != suffix or folder + name in self.taken:
            name, more = f"{number + 1:06}{suffix}", 1
            while folder + name in self.taken:
                name, more = f"{number + 1:06}_{more}{suffix}", more + 1
        self.taken.add(folder + name)
        return folder + name


def _bytes(medium: str | bytes, where: str) -> bytes:
    if isinstance(medium, bytes):
        return medium
    try:
        return Path(medium).read_bytes()
    except OSError as error:
        raise DataError(f"{medium} cannot be read: {error.strerror}", where=where) from error
