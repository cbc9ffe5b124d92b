"""jsonl and json: rows as they are."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.data.formats.cells import Row
from launcher.data.writers.writer import KINDS, At, Facts, Writer, in_columns


def dumped(value: Any) -> str:
    """JSON on one line. TypeError for what JSON has no word for, such as a date out of a parquet file."""
    return json.dumps(value, ensure_ascii=False)


def _hold(row: Row, at: At) -> Row:
    return row


def _write_jsonl(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(dumped(in_columns(row)) + "\n" for row in rows)


def _write_json(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    """An array with a row a line."""
    with path.open("w", encoding="utf-8") as text:
        before = "[\n"
        for row in rows:
            text.write(before + dumped(in_columns(row)))
            before = ",\n"
        text.write("\n]\n")


JSONL = Writer(kinds=tuple(KINDS), hold=_hold, write=_write_jsonl, suffixes=(".jsonl",))
JSON = Writer(kinds=tuple(KINDS), hold=_hold, write=_write_json, suffixes=(".json",))
