"""Files of rows: a reader for every suffix, path -> (where, row), with `where` as an editor counts.

A row that cannot be used comes as a DataError in its place, and the next one follows; a file that cannot be read on
raises one. To add a file format, add a reader here and its twin to columns.py.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launcher.errors import DataError

Read = tuple[str, Any]  # (where, row), or (where, DataError) for a row that cannot be used


def read(path: Path, header: Sequence[str] = ()) -> Iterator[Read]:
    """The rows of one file; `header` names the cells of a csv or tsv file that has no header line."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"no reader for {path.suffix!r} files", where=str(path), fix=f"use one of {', '.join(READERS)}")
    yield from reader(path, header) if path.suffix in TABLES else reader(path)


# utf-8-sig is UTF-8 that may begin with the mark that Windows programs put there.


def _jsonl(path: Path) -> Iterator[Read]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                row = DataError(f"not JSON: {error.msg} at column {error.colno}", where=where)
            except (ValueError, RecursionError) as error:
                row = DataError(f"not JSON that can be read: {too_much(error)}", where=where)
            yield where, row


def json_of(path: Path) -> Any:
    """The one value that a JSON file holds."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON that can be read: {too_much(error)}", where=str(path)) from None


def too_much(error: ValueError | RecursionError) -> str:
    """What Python's reader of JSON cannot hold."""
    return "it is nested too deep" if isinstance(error, RecursionError) else "a number has thousands of digits"


def _json(path: Path) -> Iterator[Read]:
    rows = json_of(path)
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError("a .json data file must hold an array of objects", where=str(path), fix="or save it as .jsonl")
    for number, row in enumerate(rows, 1):
        yield f"{path} row {number}", row


def _csv(path: Path, header: Sequence[str] = ()) -> Iterator[Read]:
    """Quoted as in RFC 4180; strict, because a quote that is never closed would swallow the rest of the file."""
    return _cells(path, header, delimiter=",", strict=True)


def _tsv(path: Path, header: Sequence[str] = ()) -> Iterator[Read]:
    """Tabs and line ends only: in text/tab-separated-values (IANA) a quote is a character like any other."""
    return _cells(path, header, delimiter="\t", quoting=csv.QUOTE_NONE)


def _cells(path: Path, header: Sequence[str], **dialect: Any) -> Iterator[Read]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, **dialect)
        line = 1
        try:
            names = header or next(reader, [])
            if len(set(names)) < len(names):
                raise DataError("two columns of the header have the same name", where=f"{path}:1")
            line = reader.line_num + 1
            for cells in reader:
                if header and line == 1 and cells == list(header):
                    raise DataError("the file has a header line of its own", where=f"{path}:1", fix="leave header out")
                if cells:
                    yield f"{path}:{line}", _named(names, cells, f"{path}:{line}")
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"not {path.suffix[1:].upper()}: {error}", where=f"{path}:{line}") from None


def _named(header: Sequence[str], cells: list[str], where: str) -> Any:
    if len(cells) != len(header):
        return DataError(f"{len(cells)} cells where the header has {len(header)}", where=where)
    return dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[Read]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(path)) from None


def _txt(path: Path) -> Iterator[Read]:
    """A text file is one document; `data.on_truncate: split` cuts it into pieces of max_length."""
    yield f"{path}:1", {"text": path.read_text(encoding="utf-8-sig")}


READERS: dict[str, Callable[..., Iterator[Read]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _txt,
}
TABLES = (".csv", ".tsv")  # whose cells a header names
