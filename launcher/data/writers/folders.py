"""Folders that are a data set: a folder for every class, pictures beside masks, sounds with a metadata.csv."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from launcher.data.formats.cells import Row
from launcher.data.formats.sounds import METADATA
from launcher.data.writers import naming
from launcher.data.writers.tables import hold_csv, write_cells
from launcher.data.writers.writer import At, Facts, Tally, Writer, as_text

ORDER = "the order of the rows, since those of a label come together"


def _hold_class(row: Row, at: At) -> Row | None:
    if isinstance(row["label"], list):
        return at.leave_out("with a list of labels")
    held = as_text(row, at)
    return held if naming.is_name(held["label"]) else at.leave_out("whose label cannot be the name of a folder")


def _order(facts: Facts, tally: Tally) -> None:
    labels = [label for label, _ in facts.files]
    if any(after < before for before, after in zip(labels, labels[1:], strict=False)):
        tally.lose(ORDER, "", facts.rows)


def _hold_pair(row: Row, at: At) -> Row:
    return row


def _nothing_more(rows: Iterable[Row], folder: Path, facts: Facts) -> None:
    """The pictures are the data, and they have been put where they belong."""
    deque(rows, maxlen=0)


def _write_metadata(rows: Iterable[Row], folder: Path, facts: Facts) -> None:
    with (folder / METADATA).open("w", encoding="utf-8", newline="") as text:
        write_cells(rows, text, ["audio", "label"], ["file_name", "label"])


IMAGE_FOLDER = Writer(
    kinds=("labelled_image",),
    hold=_hold_class,
    write=_nothing_more,
    layout="image_folder",
    loses={"labelled_image": "the order of rows whose labels take turns; lists of labels; labels that name no folder"},
    whole=_order,
    copies=True,
    places=naming.in_classes,
)
MASK_FOLDER = Writer(
    kinds=("masked_image",),
    hold=_hold_pair,
    write=_nothing_more,
    layout="mask_folder",
    copies=True,
    places=naming.in_pairs,
)
AUDIO_FOLDER = Writer(kinds=("labelled_audio",), hold=hold_csv, write=_write_metadata, layout="audio_folder")
