"""What a data file holds, found out from its first rows, or all where these lack a column: the names, and the format they fit.

Reads local files only, the standard library's way (parquet: the schema only), so that a wrong column is known before
torch is imported. Hub data sets are looked at when they are read.
"""

import csv
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher.data.formats import FORMATS, all_columns, needed
from launcher.data.readers import TABLES, read, too_much
from launcher.errors import DataError

OUR_COLUMNS = all_columns(FORMATS)
ROWS_LOOKED_AT = 100
UNEVEN = (".jsonl", ".json")  # files whose rows may have other columns each


def detect_format(
    column_names: Collection[str],
    columns_mapping: Mapping[str, str],
    formats: Iterable[str] = tuple(FORMATS),
    defaults: Collection[str] = (),
    labelled: bool = True,
) -> str | None:
    """The first format of rows whose columns are all there or have a default; `columns_mapping` is {our name: the file's}."""
    rows = [name for name in formats if FORMATS[name].layout is None]
    rows.sort(key=lambda name: not set(needed(name)) & set(columns_mapping))  # those that are mapped come first
    present = {name for name in OUR_COLUMNS if name in defaults or columns_mapping.get(name, name) in column_names}
    return next((name for name in rows if set(needed(name, labelled)) <= present), None)


def data_files(path: Path) -> list[Path]:
    """The data files that a file or folder stands for, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in LOOKUPS and file.is_file())


def column_names(file: Path, header: Sequence[str] = ()) -> list[str]:
    """Column names of one data file; `header` stands in for a header line that a csv or tsv file lacks.

    Raises ValueError with the reason when the file does not hold rows.
    """
    if file.suffix not in LOOKUPS:
        raise ValueError(f"no reader for {file.suffix or 'files without a suffix'}; use one of {', '.join(LOOKUPS)}")
    try:
        found = LOOKUPS[file.suffix](file)
        return list(header) if header and file.suffix in TABLES else found
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def all_column_names(file: Path, header: Sequence[str] = ()) -> list[str]:
    """The same of all rows; for whoever misses a column. Rows that are broken are the reader's to name."""
    found = dict.fromkeys(column_names(file, header))
    if file.suffix in UNEVEN:
        with suppress(DataError, UnicodeDecodeError):
            for _, row in read(file):
                found |= dict.fromkeys(row) if isinstance(row, dict) else {}
    return list(found)


def _jsonl(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig") as lines:
        numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        return _names([_row(line, number) for number, line in itertools.islice(numbered, ROWS_LOOKED_AT)])


def _row(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is not JSON that can be read: {too_much(error)}") from None


def _json(file: Path) -> list[str]:
    """First object of the array: enough of the file is read to hold it, never all of a large one."""
    with file.open(encoding="utf-8-sig") as text:
        head = text.read(1 << 16)
        while (start := _ARRAY.match(head)) is not None:
            try:
                row, _ = json.JSONDecoder().raw_decode(head, start.end())
                return _names([row])
            except json.JSONDecodeError:
                more = text.read(len(head))
                if not more:
                    break
                head += more
            except (ValueError, RecursionError) as error:
                raise ValueError(f"is not JSON that can be read: {too_much(error)}") from None
    raise ValueError("does not hold an array of objects; one object per line is .jsonl")


_ARRAY = re.compile(r'\s*(\{[^][{}]*"data"\s*:\s*)?\[\s*')  # [ or {"data": [, scalars before it allowed


def _names(rows: list[Any]) -> list[str]:
    if not rows:
        raise ValueError("holds no rows")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("has rows that are not objects with named columns")
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(file: Path, delimiter: str = ",") -> list[str]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        header = next(csv.reader(text, delimiter=delimiter), None)
    if not header:
        raise ValueError("has no header line")
    return header


def _tsv(file: Path) -> list[str]:
    return _csv(file, "\t")


def _parquet(file: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(file).names)
    except pyarrow.ArrowException as error:
        raise ValueError(f"is not a readable parquet file: {error}") from None


def _txt(file: Path) -> list[str]:
    return ["text"]


LOOKUPS: dict[str, Callable[[Path], list[str]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _txt,
}
