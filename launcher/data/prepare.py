"""Render and tokenise once, keep the result under the hash of everything that went into it.

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
TOKENS_PER_BATCH = 4_000_000  # a row may be long: what waits to be written is Python's, at some 16 bytes a number
CODE = ("sources.py", "columns.py", "render.py", "prepare.py")
LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow")
Row = dict[str, list[int]]
MakeRows = Callable[[dict[str, int]], Iterable[Row]]


@dataclass(frozen=True)
class Prepared:
    """Prepared rows on disk. `counts` holds what happened to the rows: read, kept, dropped, truncated..."""

    folder: Path

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._facts["counts"])

    @property
    def digest(self) -> str:
        """Hash of the rows themselves: part of every checkpoint, so that a run cannot go on with other data."""
        return str(self._facts["digest"])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str, index: int) -> np.ndarray:
        """One row's list of a column, a view into the mapped file."""
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        offsets, values = self._lists(name)[chunk]
        local = index - int(self._starts[chunk])
        return values[offsets[local] : offsets[local + 1]]

    def tokens(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.column("input_ids", index), self.column("trained", index)

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.concatenate([np.diff(offsets) for offsets, _ in self._lists("input_ids")] or [np.zeros(0, np.int64)])

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
    def _columns(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        return {}

    def _lists(self, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
        if name not in self._columns:
            chunks = self._table.column(name).chunks
            self._columns[name] = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]
        return self._columns[name]


class Joined:
    """Several prepared sources as one run of rows."""

    def __init__(self, sources: Sequence[Prepared]):
        self.sources = tuple(sources)
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        self.lengths = np.concatenate([source.lengths for source in sources])
        self.digest = hashlib.sha256(" ".join(source.digest for source in sources).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def tokens(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[number].tokens(index - int(self.starts[number]))

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
) -> Prepared:
    """The prepared rows made by `make_rows(counts)`, unless the cache holds them.

    `ingredients` is everything that decides the result; `make_rows` yields rows of int lists, all of the same columns,
    and counts what happens to them into the dict that it is given.
    """
    folder = cache_dir / _key(ingredients)
    if not folder.exists():
        with _only_writer(folder):
            if not folder.exists():
                _write(folder, make_rows)
    return Prepared(folder)


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
    here = Path(__file__).parent
    code = [file_digest(here / name) for name in CODE]
    parts = {"code": code, "libraries": [version(name) for name in LIBRARIES], **ingredients}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _write(folder: Path, make_rows: MakeRows) -> None:
    """Write beside, then rename. The lock is ours, so what a killed process left there is nobody's."""
    staged = folder.with_name(f".{folder.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    counts: dict[str, int] = {}
    try:
        digest = _write_rows(staged / "rows.arrow", _batches(make_rows(counts)))
        if digest is None:
            raise DataError(
                f"no row is left to train or evaluate on ({_said(counts)})",
                fix="see data.on_truncate and data.max_length",
            )
        (staged / "facts.json").write_text(json.dumps({"counts": counts, "digest": digest}))
        os.rename(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_rows(path: Path, batches: Iterator[list[Row]]) -> str | None:
    """The hash of what was written, or None if there was nothing. The columns are those of the first row."""
    import pyarrow

    first = next(batches, None)
    if first is None:
        return None
    schema = pyarrow.schema([(name, pyarrow.list_(pyarrow.int32())) for name in first[0]])
    content = hashlib.sha256()
    with path.open("wb") as sink:
        with pyarrow.ipc.new_file(sink, schema) as writer:
            for rows in chain([first], batches):
                batch = pyarrow.RecordBatch.from_pylist(rows, schema)
                writer.write_batch(batch)
                for column in batch.columns:
                    content.update(column.value_lengths().to_numpy())
                    content.update(column.values.to_numpy())
        os.fsync(sink.fileno())  # the rename must not reach the disk before the rows do
    return content.hexdigest()[:32]


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows by the thousand, fewer where they are long."""
    batch: list[Row] = []
    tokens = 0
    for row in rows:
        batch.append(row)
        tokens += sum(map(len, row.values()))
        if len(batch) == ROWS_PER_BATCH or tokens >= TOKENS_PER_BATCH:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in counts.items()) or "the files hold none"
