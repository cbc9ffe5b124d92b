"""csv and tsv: rows whose cells are texts."""

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.data.formats import FORMATS
from launcher.data.formats.cells import Row
from launcher.data.formats.media import MEDIA
from launcher.data.writers.writer import At, Facts, Writer, as_text

FLAT = (
    "text",
    "labelled_text",
    "source_target",
    "prompt_completion",
    "labelled_image",
    "masked_image",
    "labelled_audio",
)
BREAKS = re.compile(r"[\t\n\r]")
LISTS = "cells with lists of turns"
PAIRS = "rows without text_pair, which become rows with an empty one"


def hold_csv(row: Row, at: At) -> Row | None:
    if "messages" in row:
        return at.leave_out(LISTS)
    if at.facts.is_partial("text_pair") and "text_pair" not in row:
        at.lose(PAIRS)
        row = {**row, "text_pair": ""}
    return row if _is_list_of_words(row.get("label")) else as_text(row, at)


def _is_list_of_words(label: Any) -> bool:
    """A list that comes back from a cell as it is."""
    return isinstance(label, list) and not any(isinstance(one, bool) for one in label)


def hold_tsv(row: Row, at: At) -> Row | None:
    """There are no quotes, so no cell has a tab or a line end; and a line without anything on it is no row."""
    held = hold_csv(row, at)
    if held is None:
        return None
    if any(isinstance(held.get(name), str) and BREAKS.search(Path(held[name]).name) for name in MEDIA):
        return at.leave_out("names of files with tabs or line ends")
    if list(held.values()) == [""]:
        return at.leave_out("rows of a single empty cell")
    texts = {
        name: BREAKS.sub(" ", value)
        for name, value in held.items()
        if isinstance(value, str) and name not in MEDIA and BREAKS.search(value)
    }
    if texts:
        at.lose("tabs and line ends in cells, which become spaces")
    return {**held, **texts}


def write_csv(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    with path.open("w", encoding="utf-8", newline="") as text:
        write_cells(rows, text, header(facts))


def _write_tsv(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    names = header(facts)
    with path.open("w", encoding="utf-8", newline="") as text:
        text.write("\t".join(names) + "\n")
        text.writelines("\t".join(_cell(row[name]) for name in names) + "\n" for row in rows)


def header(facts: Facts) -> list[str]:
    """Our names of the columns that the rows have."""
    return [name for name in FORMATS[facts.kind].all_columns if facts.columns[name]]


def write_cells(rows: Iterable[Row], text: Any, names: list[str], shown: list[str] | None = None) -> None:
    """RFC 4180, but for line ends of one character; `shown` are the names that the header has."""
    line = io.StringIO()
    writer = csv.writer(line)  # its own line ends, \r\n: only then it quotes cells that hold either character
    writer.writerow(shown or names)
    text.write(_ended(line))
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])
        text.write(_ended(line))


def _ended(line: io.StringIO) -> str:
    """The one line of the buffer, which is emptied."""
    written = line.getvalue().removesuffix("\r\n")
    line.seek(0)
    line.truncate()
    return written + "\n"


def _cell(value: Any) -> str:
    """A list as JSON; true and false in it do not occur."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


SOME = {"labelled_text": PAIRS, "prompt_completion": LISTS}
CSV = Writer(kinds=FLAT, hold=hold_csv, write=write_csv, suffixes=(".csv",), loses=SOME)
TSV = Writer(
    kinds=FLAT,
    hold=hold_tsv,
    write=_write_tsv,
    suffixes=(".tsv",),
    loses={**SOME, "text": "empty texts", "*": "tabs and line ends in cells"},
)
