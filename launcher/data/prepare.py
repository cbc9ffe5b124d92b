"""Make rows once (render, tokenise, read labels), keep the result under the hash of everything that went into it.

The key covers the bytes of the data, the tokenizer, the options, our own code and the libraries that render and
tokenise, so a stale cache cannot be read. One process a file system writes (a lock, no process group), into a staged
folder that appears by rename; all others read it memory-mapped.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from launcher import log
from launcher.data.digest import file_digest
from launcher.errors import DataError, EnvironmentProblem

ROWS_PER_BATCH = 10_000
# What a column of prepared rows may hold, and what it is in the file.
KINDS = {
    "int": "int64",
    "text": "string",
    "bytes": "binary",
    "ints": "list<int32>",
    "floats": "list<float32>",
    "texts": "list<string>",
}
ITEMS_PER_BATCH = 4_000_000  # a row may be long: what waits to be written is Python's, at some 16 bytes a number
LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "pillow")
Row = dict[str, Any]
MakeRows = Callable[[dict[str, int]], Iterable[Row]]
WriteBeside = Callable[[Path], None]


@dataclass(frozen=True)
class Columns:
    """Name -> kind of each column. `length` names the one that tells how long a row is: the number of its items, or itself;
    where it is None, every row counts one. `places` say where something is and not what: data that is moved stays the same."""

    kinds: Mapping[str, str]
    length: str | None = None
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Prepared rows on disk. `counts` holds what happened to the rows: read, kept, dropped, truncated..."""

    folder: Path
    length_column: str | None

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._facts["counts"])

    @property
    def digest(self) -> str:
        """Hash of the rows themselves: part of every checkpoint, so that a run cannot go on with other data."""
        return str(self._facts["digest"])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int, names: Sequence[str] | None = None) -> Row:
        """The columns of one row, all or those named: lists of numbers as views into the mapped file, texts, whole numbers."""
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        local = index - int(self._starts[chunk])
        return {name: self._chunks(name)[chunk](local) for name in names or self._table.column_names}

    def all(self, name: str) -> list[Any]:
        """A column of all rows, as Python's own."""
        values: list[Any] = self._table.column(name).to_pylist()
        return values

    @cached_property
    def lengths(self) -> np.ndarray:
        if self.length_column is None:
            return np.ones(len(self), np.int64)
        return np.concatenate([_lengths(chunk) for chunk in self._table.column(self.length_column).chunks])

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return facts

    @cached_property
    def _table(self) -> Any:
        import pyarrow

        return pyarrow.ipc.open_file(pyarrow.memory_map(str(self.folder / "rows.arrow"))).read_all()

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(batch.num_rows for batch in self._table.to_batches())])

    @cached_property
    def _readers(self) -> dict[str, list[Callable[[int], Any]]]:
        return {}

    def _chunks(self, name: str) -> list[Callable[[int], Any]]:
        if name not in self._readers:
            self._readers[name] = [_reader(chunk) for chunk in self._table.column(name).chunks]
        return self._readers[name]


def _lengths(chunk: Any) -> np.ndarray:
    lengths: np.ndarray = (chunk.value_lengths() if hasattr(chunk, "value_lengths") else chunk).to_numpy()
    return lengths.astype(np.int64)


def _reader(chunk: Any) -> Callable[[int], Any]:
    """Place in a chunk of a column -> its value."""
    import pyarrow

    if not pyarrow.types.is_list(chunk.type) or pyarrow.types.is_string(chunk.type.value_type):
        return lambda place: chunk[place].as_py()
    offsets, values = chunk.offsets.to_numpy(), chunk.values.to_numpy()
    return lambda place: values[offsets[place] : offsets[place + 1]]


class Joined:
    """Several prepared sources as one run of rows."""

    def __init__(self, sources: Sequence[Prepared]):
        self.sources = tuple(sources)
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        self.lengths = np.concatenate([source.lengths for source in sources])
        self.digest = hashlib.sha256(" ".join(source.digest for source in sources).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int, names: Sequence[str] | None = None) -> Row:
        """The columns of one row, see `Prepared.read`."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[number].read(index - int(self.starts[number]), names)

    def all(self, name: str) -> list[Any]:
        """A column of all rows, as Python's own."""
        return [value for source in self.sources for value in source.all(name)]

    @property
    def counts(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.counts)
        return dict(total)


def prepare(
    ingredients: Mapping[str, Any],
    make_rows: MakeRows,
    cache_dir: Path,
    columns: Columns,
    beside: WriteBeside | None = None,
) -> Prepared:
    """The prepared rows made by `make_rows(counts)`, unless the cache holds them.

    `ingredients` is everything else that decides the result; `make_rows` yields rows with all of `columns`, and counts what
    happens to them into the dict that it is given. `beside` may write more files into the folder, once all rows are made.
    """
    folder = cache_dir / _key({**ingredients, "columns": [dict(columns.kinds), columns.length]})
    if not folder.exists():
        with _only_writer(folder):
            if not folder.exists():
                _write(folder, make_rows, columns, beside)
    return Prepared(folder, columns.length)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """One process at a time; another that is at it already is waited for, and said."""
    from filelock import FileLock, Timeout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log.say(f"another process prepares this data; waiting for {lock.lock_file}")
            lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise EnvironmentProblem(
            f"cannot be written to: {error.strerror}", where=str(folder.parent), fix="set data.cache_dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "launcher" / "data"


def _key(ingredients: Mapping[str, Any]) -> str:
    code = [file_digest(path) for path in sorted(Path(__file__).parent.rglob("*.py"))]
    parts = {"code": code, "libraries": [version(name) for name in LIBRARIES], **ingredients}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _write(folder: Path, make_rows: MakeRows, columns: Columns, beside: WriteBeside | None) -> None:
    """Write beside, then rename. The lock is ours, so what a killed process left there is nobody's."""
    staged = folder.with_name(f".{folder.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    counts: dict[str, int] = {}
    try:
        digest = _write_rows(staged / "rows.arrow", _batches(make_rows(counts)), columns)
        if digest is None:
            raise DataError(
                f"no row is left to train or evaluate on ({_said(counts)})",
                fix="see data.on_truncate, data.max_length and data.clean",
            )
        (staged / "facts.json").write_text(json.dumps({"counts": counts, "digest": digest}))
        if beside is not None:
            beside(staged)
        os.rename(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_rows(path: Path, batches: Iterator[list[Row]], columns: Columns) -> str | None:
    """The hash of what was written, or None if there was nothing."""
    import pyarrow

    first = next(batches, None)
    if first is None:
        return None
    schema = pyarrow.schema([(name, _arrow_type(kind)) for name, kind in columns.kinds.items()])
    content = hashlib.sha256()
    with path.open("wb") as sink:
        with pyarrow.ipc.new_file(sink, schema) as writer:
            for rows in chain([first], batches):
                batch = pyarrow.RecordBatch.from_pylist(rows, schema)
                writer.write_batch(batch)
                for name, column in zip(columns.kinds, batch.columns, strict=True):
                    if name not in columns.places:
                        _digest(column, content)
        os.fsync(sink.fileno())  # the rename must not reach the disk before the rows do
    return content.hexdigest()[:32]


def _arrow_type(kind: str) -> Any:
    import pyarrow

    inner = KINDS[kind].removeprefix("list<").removesuffix(">")
    value_type = pyarrow.type_for_alias(inner)
    return pyarrow.list_(value_type) if KINDS[kind].startswith("list<") else value_type


def _digest(column: Any, content: Any) -> None:
    """Take a column into a hash: lengths and values."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_list(column.type):
        content.update(column.value_lengths().to_numpy())
        _digest(column.values, content)
    elif pyarrow.types.is_string(column.type) or pyarrow.types.is_binary(column.type):
        content.update(pyarrow.compute.binary_length(column).to_numpy(zero_copy_only=False))
        content.update(b"".join(column.cast("binary").to_pylist()))
    else:
        content.update(column.to_numpy())


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows by the thousand, fewer where they are long."""
    batch: list[Row] = []
    items = 0
    for row in rows:
        batch.append(row)
        items += sum(len(value) for value in row.values() if hasattr(value, "__len__"))
        if len(batch) == ROWS_PER_BATCH or items >= ITEMS_PER_BATCH:
            yield batch
            batch, items = [], 0
    if batch:
        yield batch


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in counts.items()) or "the files hold none"
