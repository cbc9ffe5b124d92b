"""Where rows come from: local files, a folder of them, or a hub data set, each as (where, example) in a fixed order.

An example has our column names: `messages`, or `prompt` and `completion`, or `text`. A row that cannot be used is a
DataError that names its file and place. To add a file format, add a reader here and its twin to columns.py.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.data.columns import data_files, detect_format
from launcher.data.digest import file_digest
from launcher.errors import DataError
from launcher.schema import Source

Row = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}


def examples(source: Source) -> Iterator[tuple[str, Row]]:
    """Yield (where, example) of one source; `where` is `file:line` as an editor counts lines, or `file row N`."""
    row_format = source.format
    where = None
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
    if where is None:
        raise DataError("holds no rows", where=source.path)


def files(source: Source) -> list[Path]:
    """The local files of a source, sorted; empty for a hub data set."""
    path = Path(source.path)
    if not path.exists():
        return []
    if source.name or source.split and (path.is_dir() or source.split != "train"):
        raise DataError(
            "name and split choose from a hub data set; local files are read whole",
            where=source.path,
            fix="name the one file that you mean",
        )
    found = data_files(path)
    if not found:
        raise DataError(f"no data file ({', '.join(READERS)}) in this folder", where=source.path)
    return found


def fingerprint(source: Source) -> list[str]:
    """Words that change when a source's content does: each file's reader and hash, or the hub data set's revision."""
    local = files(source)
    if local:
        return [f"{path.suffix} {file_digest(path)}" for path in local]
    import datasets

    try:
        return [str(source.name), str(datasets.load_dataset_builder(source.path, source.name).hash)]
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
            yield from reader(path)
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
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
        yield f"{source.path} {split} row {number}", row


def _unreachable(source: Source, error: Exception) -> DataError:
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return DataError(f"neither a file here nor a hub data set that can be reached ({said})", where=source.path)


# --- readers: path -> (where, row) ------------------------------------------------------------------------------------
# utf-8-sig is UTF-8 that may begin with the mark that Windows programs put there.


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"not JSON: {error.msg} at column {error.colno}", where=f"{path}:{number}") from None
            yield f"{path}:{number}", row


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from None
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError("a .json data file must hold an array of objects", where=str(path), fix="or save it as .jsonl")
    for number, row in enumerate(rows, 1):
        yield f"{path} row {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Quoted as in RFC 4180; strict, because a quote that is never closed would swallow the rest of the file."""
    return _cells(path, delimiter=",", strict=True)


def _tsv(path: Path) -> Iterator[tuple[str, Any]]:
    """Tabs and line ends only: in text/tab-separated-values (IANA) a quote is a character like any other."""
    return _cells(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _cells(path: Path, **dialect: Any) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, **dialect)
        line = 1
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError("two columns of the header have the same name", where=f"{path}:1")
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    raise DataError(f"{len(cells)} cells where the header has {len(header)}", where=f"{path}:{line}")
                if cells:
                    yield f"{path}:{line}", dict(zip(header, cells, strict=True))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"not {path.suffix[1:].upper()}: {error}", where=f"{path}:{line}") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
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


def _txt(path: Path) -> Iterator[tuple[str, Any]]:
    """A text file is one document; `data.on_truncate: split` cuts it into pieces of max_length."""
    yield f"{path}:1", {"text": path.read_text(encoding="utf-8-sig")}


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _txt,
}


# --- formats: row -> example ------------------------------------------------------------------------------------------


def _column(row: Row, columns: dict[str, str], name: str, where: str) -> Any:
    column = columns.get(name, name)
    if column not in row:
        raise DataError(f"no column {column!r}; this row has {', '.join(map(repr, row))}", where=where)
    return row[column]


def _text_column(row: Row, columns: dict[str, str], name: str, where: str) -> str:
    return _checked_text(_column(row, columns, name, where), f"column {columns.get(name, name)!r}", where)


def _checked_text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, not {'empty' if value is None else type(value).__name__}", where=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # an emoji cut in two by whoever shortened the text; no tokenizer takes it
        raise DataError(f"{what} holds half a character at position {error.start}", where=where) from None
    return value


def _text(row: Row, columns: dict[str, str], where: str) -> Row:
    return {"text": _text_column(row, columns, "text", where)}


def _prompt_completion(row: Row, columns: dict[str, str], where: str) -> Row:
    prompt, completion = (_column(row, columns, name, where) for name in ("prompt", "completion"))
    if isinstance(prompt, list) and isinstance(completion, list):  # both written as turns: it is a conversation
        return {**_conversation(row, prompt + completion, where), "completion_turns": len(completion)}
    return {name: _text_column(row, columns, name, where) for name in ("prompt", "completion")}


def _messages(row: Row, columns: dict[str, str], where: str) -> Row:
    return _conversation(row, _column(row, columns, "messages", where), where)


def _conversation(row: Row, messages: Any, where: str) -> Row:
    """The turns, and the `tools` beside them that the template writes into the prompt."""
    if not isinstance(messages, list) or not messages:
        raise DataError("messages must be a list of at least one {role, content}", where=where)
    example: Row = {"messages": [_turn(message, f"{where} messages[{i}]") for i, message in enumerate(messages)]}
    if tools := _tools(row.get("tools"), where):
        example["tools"] = tools
    return example


def _tools(tools: Any, where: str) -> list[Any]:
    """Function descriptions, as a list or as the JSON text of one."""
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools or []
    except json.JSONDecodeError as error:
        raise DataError(f"column 'tools' is not JSON: {error.msg}", where=where) from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("column 'tools' must be a list of function descriptions", where=where)
    return tools


def _turn(message: Any, where: str) -> Row:
    if isinstance(message, dict) and "from" in message and "value" in message:  # ShareGPT's spelling
        message = {"role": message["from"], "content": message["value"]}
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError("a message needs a role and a content", where=where)
    turn = {key: value for key, value in message.items() if value is not None}
    turn["role"] = SHAREGPT_ROLES.get(turn["role"], turn["role"])
    if turn["role"] not in ROLES:  # a template would write any word, and nothing would be trained on it
        known = ", ".join((*ROLES, *SHAREGPT_ROLES))
        raise DataError(f"unknown role {turn['role']!r}", where=where, fix=f"use one of {known}")
    if turn.get("tool_calls") and "content" not in turn:
        return turn
    turn["content"] = _checked_text(turn.get("content"), "the content", where)
    return turn


FORMATS: dict[str, Callable[[Row, dict[str, str], str], Row]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "text": _text,
}
