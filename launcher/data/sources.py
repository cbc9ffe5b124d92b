"""Where rows come from: local files, a folder of them, or a hub data set, each as (where, example) in a fixed order.

An example has our column names: `messages`, or `prompt` and `completion`, or `text`. A row that cannot be used is a DataError
that names its file and row. To add a file format, add one reader to `READERS`.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.data.columns import detect_format
from launcher.data.digest import file_digest
from launcher.errors import DataError
from launcher.schema import Source

Row = dict[str, Any]
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool"}


def examples(source: Source) -> Iterator[tuple[str, Row]]:
    """Yield (where, example) of one source; `where` is `file:row` with rows counted as a person's editor would."""
    row_format = source.format
    for where, row in _raw_rows(source):
        if not isinstance(row, dict):
            raise DataError(f"a row must be an object with named columns, not {type(row).__name__}", where=where)
        row_format = row_format or detect_format(list(row), source.columns)
        if row_format is None:
            raise DataError(
                f"the columns {', '.join(map(repr, row))} are none of messages, prompt + completion, text",
                where=where,
                fix="name them under data.*.columns, for example {prompt: question, completion: answer}",
            )
        yield where, FORMATS[row_format](row, source.columns, where)


def files(source: Source) -> list[Path]:
    """The local files of a source, sorted; empty for a hub data set."""
    path = Path(source.path)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in READERS and p.is_file())
        if not found:
            raise DataError(f"no data file ({', '.join(READERS)}) in this folder", where=str(path))
        return found
    return [path] if path.exists() else []


def fingerprint(source: Source) -> list[str]:
    """Hashes that change when the content of a source does: of each file's bytes, or of the hub data set's revision."""
    local = files(source)
    if local:
        return [file_digest(path) for path in local]
    import datasets

    try:
        return [str(datasets.load_dataset_builder(source.path, source.name).hash)]
    except Exception as error:
        raise _unreachable(source, error) from error


def _raw_rows(source: Source) -> Iterator[tuple[str, Any]]:
    local = files(source)
    for path in local:
        reader = READERS.get(path.suffix)
        if reader is None:
            raise DataError(
                f"no reader for {path.suffix!r} files", where=str(path), fix=f"use one of {', '.join(READERS)}"
            )
        try:
            for number, row in reader(path):
                yield f"{path}:{number}", row
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from None
    if not local:
        yield from _hub_rows(source)


def _hub_rows(source: Source) -> Iterator[tuple[str, Any]]:
    import datasets

    split = source.split or "train"
    try:
        rows = datasets.load_dataset(source.path, source.name, split=split)
    except Exception as error:
        raise _unreachable(source, error) from error
    for number, row in enumerate(rows, 1):
        yield f"{source.path}[{split}]:{number}", row


def _unreachable(source: Source, error: Exception) -> DataError:
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return DataError(f"neither a file here nor a hub data set that can be reached ({said})", where=source.path)


# --- readers: path -> (row number, row) ---------------------------------------------------------------------------------


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"not JSON: {error.msg} at column {error.colno}", where=f"{path}:{number}") from None


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from None
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError("a .json data file must hold an array of objects", where=str(path), fix="or save it as .jsonl")
    yield from enumerate(rows, 1)


def _csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8", newline="") as text:
        reader = csv.DictReader(text, delimiter=delimiter, restkey="")
        for number, row in enumerate(reader, 2):
            if "" in row or None in row.values():
                cells = len([v for v in row.values() if v is not None]) + len(row.get("", [])) - ("" in row)
                raise DataError(
                    f"{cells} cells where the header has {len(reader.fieldnames or [])}", where=f"{path}:{number}"
                )
            yield number, row


def _tsv(path: Path) -> Iterator[tuple[int, Any]]:
    return _csv(path, "\t")


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield (number := number + 1), row
    except pyarrow.ArrowException as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(path)) from None


def _txt(path: Path) -> Iterator[tuple[int, Any]]:
    """A text file is one document; `data.on_truncate: split` cuts it into pieces of max_length."""
    yield 1, {"text": path.read_text(encoding="utf-8")}


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _txt,
}


# --- formats: row -> example ----------------------------------------------------------------------------------------------


def _column(row: Row, columns: dict[str, str], name: str, where: str) -> Any:
    column = columns.get(name, name)
    if column not in row:
        raise DataError(f"no column {column!r}; this row has {', '.join(map(repr, row))}", where=where)
    return row[column]


def _text_column(row: Row, columns: dict[str, str], name: str, where: str) -> str:
    value = _column(row, columns, name, where)
    if not isinstance(value, str):
        raise DataError(f"column {columns.get(name, name)!r} must be text, not {type(value).__name__}", where=where)
    return value


def _text(row: Row, columns: dict[str, str], where: str) -> Row:
    return {"text": _text_column(row, columns, "text", where)}


def _prompt_completion(row: Row, columns: dict[str, str], where: str) -> Row:
    prompt, completion = (_column(row, columns, name, where) for name in ("prompt", "completion"))
    if isinstance(prompt, list) and isinstance(completion, list):  # both written as turns: it is a conversation
        return {"messages": _turns(prompt + completion, where), "completion_turns": len(completion)}
    return {name: _text_column(row, columns, name, where) for name in ("prompt", "completion")}


def _messages(row: Row, columns: dict[str, str], where: str) -> Row:
    return {"messages": _turns(_column(row, columns, "messages", where), where)}


def _turns(messages: Any, where: str) -> list[Row]:
    if not isinstance(messages, list) or not messages:
        raise DataError("messages must be a list of at least one {role, content}", where=where)
    return [_turn(message, f"{where} messages[{i}]") for i, message in enumerate(messages)]


def _turn(message: Any, where: str) -> Row:
    if isinstance(message, dict) and "from" in message and "value" in message:  # ShareGPT's spelling
        message = {"role": SHAREGPT_ROLES.get(message["from"], message["from"]), "content": message["value"]}
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError("a message needs a role and a content", where=where)
    if not isinstance(message.get("content"), str):
        raise DataError(f"the content must be text, not {type(message.get('content')).__name__}", where=where)
    return {key: value for key, value in message.items() if value is not None}


FORMATS: dict[str, Callable[[Row, dict[str, str], str], Row]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "text": _text,
}
