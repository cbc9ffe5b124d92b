"""Sounds with a label: rows, and folders."""

from collections.abc import Iterator
from pathlib import Path

from launcher.data import readers
from launcher.data.formats.cells import Cells, Row, label
from launcher.data.formats.layout import SOUNDS, Layout, first_file
from launcher.data.formats.media import in_classes, media
from launcher.data.readers import Read
from launcher.errors import DataError
from launcher.schema import Source

METADATA = "metadata.csv"


def labelled_audio(cells: Cells) -> Row:
    example: Row = {"audio": media(cells, "audio")}
    return {**example, "label": label(cells)} if cells.answered("label") else example


def _audio_folder(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    """path/metadata.csv names every sound and its label; without one, path/CLASS/* does."""
    if not (path / METADATA).is_file():
        yield from in_classes(path, "file_name", SOUNDS, labelled)
        return
    for where, row in readers.read(path / METADATA):
        if isinstance(row, dict) and source.columns.get("audio", "file_name") not in row:
            raise DataError("no column 'file_name'", where=str(path / METADATA), fix="see data.*.columns")
        yield where, row


AUDIO_FOLDER = Layout(
    read=_audio_folder,
    holds=lambda path, source: (path / METADATA).is_file() or first_file(path, SOUNDS) is not None,
    is_folder=True,
    looks=f"{METADATA} (file_name, label) or a folder for every class, with sounds",
    suffixes=(METADATA,),
    columns="names",
    media=True,
)
