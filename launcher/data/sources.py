"""Where examples come from: local files, a folder, or a hub data set, each as (where, example) in a fixed order.

An example has our column names; `formats` knows what each format holds. A row that cannot be used is a DataError that
names its file and place. To add a file format, see `readers`; to add a format, see `formats`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.data import readers
from launcher.data.columns import data_files, detect_format
from launcher.data.digest import file_digest
from launcher.data.fit import detect, fitting, misfits, remedy
from launcher.data.formats import FORMATS, in_words
from launcher.data.formats.cells import Cells, Row
from launcher.data.formats.layout import Layout, files_below
from launcher.data.formats.media import MEDIA, media_digest, named_file
from launcher.data.readers import Read
from launcher.errors import DataError, printable
from launcher.schema import Source

CONVERSATIONS = ("messages", "prompt_completion")  # beside whose columns `tools` are read


def examples(
    source: Source,
    formats: Sequence[str],
    spoiled: Callable[[DataError], None] | None = None,
    labelled: bool = True,
    misplaced: bool = False,
) -> Iterator[tuple[str, Row]]:
    """Yield (where, example) of one source; `where` is `file:line` as an editor counts lines, `file row N`, or a file.

    `formats` are the names that may be read, the likeliest first; `spoiled` takes the error of a row that cannot be used,
    and the next row follows (without it the error is raised). Not `labelled`: answers may be missing, and are left out.
    `misplaced`: answers need not stand in their context where the row says.
    Raises DataError for a file that cannot be read, and for a source that fits none of `formats`.
    """
    name = _insist_on_fit(source, formats, labelled)
    where = None
    for folder, where, row in _rows(source, name, labelled):
        if name is None and isinstance(row, dict):
            name = _of_first_row(source, formats, row, where, labelled)
        try:
            example = _example(source, name, row, where, folder, labelled, misplaced)
        except DataError as error:
            if spoiled is None:
                raise
            spoiled(error)
        else:
            yield where, example
    if where is None:
        raise DataError("holds no rows", where=source.path)


def files(source: Source, layout: Layout | None = None) -> list[Path]:
    """The local files of a source that hold its rows, sorted; empty for a hub data set."""
    path = Path(source.path)
    if not path.exists():
        return []
    if source.name or source.split and (path.is_dir() or source.split != "train"):
        raise DataError(
            "name and split choose from a hub data set; local files are read whole",
            where=source.path,
            fix="name the one file that you mean",
        )
    found = files_below(path, layout.suffixes)[0] if layout and path.is_dir() else data_files(path)
    if not found and not (layout and layout.is_folder):
        suffixes = layout.suffixes if layout else readers.READERS
        raise DataError(f"no data file ({', '.join(suffixes)}) in this folder", where=source.path)
    return found


def fingerprint(source: Source, formats: Sequence[str] = tuple(FORMATS)) -> list[str]:
    """Words that change when a source's examples do: the keys that say how it is read, and each file's reader and hash,
    the pictures and sounds included; or the hub data set's revision. `formats` are those that it may have."""
    keys = [source.format, source.split, source.columns, source.header, source.defaults]
    return [
        json.dumps(keys, sort_keys=True),
        *(_local(source, formats) if Path(source.path).exists() else _hub(source)),
    ]


def unread_columns(source: Source, name: str) -> Counter[str]:
    """{column that the format `name` does not read: number of rows in which it holds something}"""
    columns = _columns(source, name)
    beside = ("tools",) if name in CONVERSATIONS else ("size",) if FORMATS[name].layout else ()
    known = {columns.get(ours, ours) for ours in (*FORMATS[name].all_columns, *beside)}
    found: Counter[str] = Counter()
    for _, _, row in _rows(source, name, labelled=False):
        if isinstance(row, dict):
            found.update(column for column, cell in row.items() if column not in known and cell not in (None, ""))
    return found


def _local(source: Source, formats: Sequence[str]) -> list[str]:
    """Of all formats that the source fits, where it does not say: rather too much than too little."""
    names = [source.format] if source.format else fitting(source, formats, labelled=False)
    layouts = {FORMATS[name].layout for name in names} or {None}
    words = [
        f"{file.suffix} {file_digest(file)}"
        for file in sorted({file for one in layouts for file in files(source, one)})
    ]
    media = {file for name in names if FORMATS[name].has_media for file in _media(source, name)}
    return [*words, media_digest(media, _folder(source, Path(source.path)))] if media else words


def _media(source: Source, name: str) -> Iterator[Path]:
    """The pictures and sounds that the rows name."""
    columns = _columns(source, name)
    for folder, _, row in _rows(source, name, labelled=False):
        cells = [row.get(columns.get(column, column)) for column in MEDIA] if isinstance(row, dict) else []
        yield from filter(None, (named_file(cell, folder) for cell in cells))


def _hub(source: Source) -> list[str]:
    import datasets

    try:
        return [str(source.name), str(datasets.load_dataset_builder(source.path, source.name).hash)]
    except Exception as error:
        raise _unreachable(source, error) from error


def _unreachable(source: Source, error: Exception) -> DataError:
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return DataError(f"neither a file here nor a hub data set that can be reached ({said})", where=source.path)


# --- which format -----------------------------------------------------------------------------------------------------


def _insist_on_fit(source: Source, formats: Sequence[str], labelled: bool) -> str | None:
    """The format; None if only a row can tell."""
    name = detect(source, formats, labelled)
    for key, problem in misfits(source, formats, name):
        raise DataError(f"{key}: {problem}", where=source.path)
    if source.media is not None and not Path(source.media).is_dir():
        raise DataError(f"media: there is no folder {source.media}", where=source.path)
    return name


def _of_first_row(source: Source, formats: Sequence[str], row: Row, where: str, labelled: bool) -> str:
    name = detect_format(list(row), source.columns, formats, source.defaults, labelled)
    if name is None:
        fix = (
            remedy(source, list(row), formats)
            if labelled
            else "name them with --columns OURS=THEIRS, or where there is no header line all with --header NAME,..."
        )
        raise DataError(
            f"the columns {', '.join(map(repr, row))} are none of {in_words(formats, labelled)}",
            where=where,
            fix=fix,
        )
    for key, problem in misfits(source, formats, name):
        raise DataError(f"{key}: {problem}", where=source.path)
    return name


# --- rows and examples ------------------------------------------------------------------------------------------------


def _rows(source: Source, name: str | None, labelled: bool) -> Iterator[tuple[Path, str, Any]]:
    """(folder that names of media are relative to, where, row)"""
    layout = FORMATS[name].layout if name else None
    local = files(source, layout)
    for path in [Path(source.path)] if layout and layout.is_folder else local:
        folder = _folder(source, path)
        rows = layout.read(path, source, labelled) if layout else readers.read(path, source.header or ())
        try:
            yield from ((folder, printable(where), row) for where, row in rows)
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    if not local and layout is None:
        yield from ((Path(source.media or "."), where, row) for where, row in _hub_rows(source))


def _folder(source: Source, path: Path) -> Path:
    """That names of pictures and sounds in `path` are relative to."""
    return Path(source.media or (path if path.is_dir() else path.parent))


def _hub_rows(source: Source) -> Iterator[Read]:
    import datasets

    split = source.split or "train"
    try:
        rows = datasets.load_dataset(source.path, source.name, split=split)
    except Exception as error:
        raise _unreachable(source, error) from error
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):  # the bytes; whoever needs the picture decodes it
            rows = rows.cast_column(column, type(feature)(decode=False))
    for number, row in enumerate(rows, 1):
        yield f"{source.path} {split} row {number}", row


def _columns(source: Source, name: str) -> Mapping[str, str]:
    """{our name: the one in the rows}; rows of a layout have our names, unless its columns are names."""
    layout = FORMATS[name].layout
    return {**FORMATS[name].columns, **source.columns} if layout is None or layout.columns == "names" else {}


def _example(
    source: Source, name: str | None, row: Any, where: str, folder: Path, labelled: bool, misplaced: bool
) -> Row:
    if isinstance(row, DataError):
        raise row
    if not isinstance(row, dict):
        raise DataError(f"a row must be an object with named columns, not {type(row).__name__}", where=where)
    assert name is not None, "a row with columns has a format"
    cells = Cells(row, where, _columns(source, name), source.defaults, folder, labelled, misplaced)
    return FORMATS[name].example(cells)
