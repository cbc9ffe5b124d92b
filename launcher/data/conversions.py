"""CONVERSIONS.md: what `launcher convert` makes of what, as a table for people."""

from collections.abc import Iterator

from launcher.data.formats import FORMATS
from launcher.data.writers import WRITERS

HEAD = """\
# What can be converted to what

Written by `launcher convert --table`; a test compares. `launcher convert INPUT --to FORMAT --output PATH` writes any format of a
line from any other of the same line, and from hub data sets of such rows. Tests take random rows full of quotes, commas, tabs,
line ends, empty cells, boxes at the border and much else from every format to every other of its line and back: they come back the
same, in the same order.

* **yes**: whatever can be read.
* a number: rows that have what the note says are refused, unless `--allow-loss` is given; others come back the same.
* nothing: the format cannot hold such rows.
"""
TAIL = """\
Besides, and said where it happens:

* csv and tsv have texts only: a label that is a number comes back as text, which every task reads alike. So do the
  names of folders, and labels of several types in a column of parquet.
* squad: questions without an id get one. coco, voc: a picture whose size is not said gets it. voc: sides of boxes may be
  rounded, by less than a millionth of a pixel.
* image_folder and mask_folder are copies of the pictures. The others name them where they are, relative to the output, or copies
  with `--copy-media`; voc without copies needs all pictures in one folder. parquet holds the bytes of pictures and sounds where
  the input does.
* What no task reads is not carried over: other columns, lemmas, segmentations, poses... It is counted.
"""


def page() -> str:
    notes: list[str] = []
    table = list(_table(notes))
    lines = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([HEAD, *table, "", *lines, "", TAIL.rstrip()]) + "\n"


def _table(notes: list[str]) -> Iterator[str]:
    """Rows are kinds of rows, columns what is written."""
    yield f"| rows | {' | '.join(WRITERS)} |"
    yield f"| --- |{' --- |' * len(WRITERS)}"
    for kind, known in FORMATS.items():
        if known.layout is None:
            cells = (_cell(name, kind, notes) for name in WRITERS)
            yield f"| {kind} | {' | '.join(cells)} |"


def _cell(name: str, kind: str, notes: list[str]) -> str:
    writer = WRITERS[name]
    if kind not in writer.kinds:
        return ""
    found = [writer.loses[key] for key in (kind, "*") if key in writer.loses]
    notes += [note for note in found if note not in notes]
    return ", ".join(str(notes.index(note) + 1) for note in found) or "yes"
