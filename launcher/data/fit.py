"""Which format a source has, and what of its keys does not fit it.

Reads the first rows, or all where these fit nothing, and never the network.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from launcher.data.columns import all_column_names, column_names, data_files, detect_format
from launcher.data.formats import FORMATS, all_columns, mapping_of, needed
from launcher.data.formats.images import folders_of
from launcher.data.formats.layout import Layout, first_file
from launcher.data.readers import TABLES
from launcher.schema import Source
from launcher.suggest import did_you_mean

SHAREGPT = "conversations"  # its column of turns
Finding = tuple[str, str]  # key of the source and what is wrong with it


def detect(source: Source, formats: Sequence[str], labelled: bool = True) -> str | None:
    """`source.format`, or else the first of `formats` that the local data fits; None where it fits none, or is not here.

    First come those of which `columns` names one; and a folder is rather one thing than a folder of many files.
    """
    if source.format is not None:
        return source.format

    def unlikeliness(name: str) -> tuple[bool, bool]:
        layout = FORMATS[name].layout
        is_mapped = bool(set(needed(name)) & set(source.columns))
        return not is_mapped, layout is not None and not layout.is_folder and Path(source.path).is_dir()

    return min(fitting(source, formats, labelled), key=unlikeliness, default=None)


def fitting(source: Source, formats: Sequence[str], labelled: bool = True) -> list[str]:
    """All of `formats` that the local data fits."""
    path = Path(source.path)
    if not path.exists():
        return []

    def fits(name: str, columns: Sequence[str]) -> bool:
        layout = FORMATS[name].layout
        if layout is not None:
            return _looks_like(layout, path, source)
        return detect_format(columns, source.columns, [name], source.defaults, labelled) is not None

    for look in (column_names, all_column_names):
        columns = _columns_of(source, look)
        if found := [name for name in formats if fits(name, columns)]:
            return found
    return []


def _columns_of(source: Source, look: Callable[[Path, Sequence[str]], list[str]]) -> list[str]:
    """Of the first data file."""
    files = data_files(Path(source.path))
    try:
        return look(files[0], source.header or ()) if files else []
    except ValueError:
        return []


def _looks_like(layout: Layout, path: Path, source: Source) -> bool:
    if layout.is_folder:
        return path.is_dir() and layout.holds(path, source)
    file = _first_of(layout, path)
    return file is not None and file.suffix in layout.suffixes and layout.holds(file, source)


def _first_of(layout: Layout, path: Path) -> Path | None:
    return first_file(path, layout.suffixes) if path.is_dir() else path


def remedy(source: Source, columns: Sequence[str], formats: Sequence[str]) -> str:
    """What to say of a source whose columns fit none of `formats`."""
    if SHAREGPT in columns and "messages" in formats:
        return f"for ShareGPT's conversations write columns: {{messages: {SHAREGPT}}}"
    ways = [f"name its columns, for example columns: {mapping_of(formats)}"]
    if source.header is None and Path(source.path).suffix in TABLES:
        ways.append("or, where the first line is a row already, all of them in order with header: [...]")
    rows = [needed(name) for name in formats if FORMATS[name].layout is None]
    lacking = [[ours for ours in wanted if source.columns.get(ours, ours) not in columns] for wanted in rows]
    if len(rows) == 1 and len(lacking[0]) == 1 < len(rows[0]):
        ways.append(f"or give all rows the same {lacking[0][0]} with defaults: {{{lacking[0][0]}: ...}}")
    return ", ".join(ways)


def misfits(source: Source, formats: Sequence[str], name: str | None) -> Iterator[Finding]:
    """What the keys of a source ask for and its format `name` (None: not known yet) cannot give."""
    if source.format is not None and source.format not in formats:
        known = "" if source.format in FORMATS else did_you_mean(source.format, formats)
        yield "format", f"{source.format} is none of the formats that this task reads ({', '.join(formats)}){known}"
        return
    yield from _unknown_columns(source, formats)
    yield from _header(source, name)
    if name is not None:
        yield from _columns(source, name)
        yield from _defaults(source, name)
        yield from _media(source, name)
        yield from _path(source, name)


def _unknown_columns(source: Source, formats: Sequence[str]) -> Iterator[Finding]:
    known = all_columns(formats)
    for key, mapping in (("columns", source.columns), ("defaults", source.defaults)):
        for ours in mapping:
            if ours not in known:
                hint = did_you_mean(ours, known)
                yield f"{key}.{ours}", f"{ours} is not one of our columns ({', '.join(known)}){hint}"


def _header(source: Source, name: str | None) -> Iterator[Finding]:
    if source.header is None:
        return
    path = Path(source.path)
    files = data_files(path) if path.exists() else []
    if name and FORMATS[name].layout or not files or any(file.suffix not in TABLES for file in files):
        yield "header", "is for csv and tsv files that have no header line"
    elif not source.header or len(set(source.header)) < len(source.header):
        yield "header", "must name every column once"


def _columns(source: Source, name: str) -> Iterator[Finding]:
    layout, known = FORMATS[name].layout, FORMATS[name].all_columns
    if layout and layout.columns is None and source.columns:
        yield "columns", f"{name} has no columns to name"
        return
    for ours, theirs in source.columns.items():
        if ours not in known:
            yield f"columns.{ours}", f"the format {name} has no column {ours}"
        elif layout and layout.columns == "positions" and not (theirs.isascii() and theirs.isdecimal()):
            yield f"columns.{ours}", f'the columns of {name} have numbers, counted from 0, for example {{{ours}: "1"}}'


def _defaults(source: Source, name: str) -> Iterator[Finding]:
    layout = FORMATS[name].layout
    if layout and layout.columns != "names" and source.defaults:
        yield "defaults", f"{name} has no rows that could leave a column out"
        return
    for ours in source.defaults:
        if ours not in FORMATS[name].all_columns:
            yield f"defaults.{ours}", f"the format {name} has no column {ours}"


def _media(source: Source, name: str) -> Iterator[Finding]:
    layout = FORMATS[name].layout
    if source.media is None:
        return
    if not FORMATS[name].has_media:
        yield "media", f"the format {name} names no pictures or sounds"
    elif layout and not layout.media:
        yield "media", f"{name} is {layout.looks}: they are not elsewhere"


def _path(source: Source, name: str) -> Iterator[Finding]:
    """A file or folder that is not what the format says."""
    layout, path = FORMATS[name].layout, Path(source.path)
    if layout is None:
        return
    shown = path if layout.is_folder else _first_of(layout, path)
    if not path.exists():
        yield "path", f"{name} is read from local files, and there is no {path}"
    elif layout.is_folder and not path.is_dir():
        yield "path", f"{name} is a folder, and {path} is a file"
    elif layout.columns == "folders":
        yield from _sub_folders(source, path)
    elif shown is None:
        yield "path", f"the folder {path} holds no file of {name} ({', '.join(layout.suffixes)})"
    elif not layout.holds(shown, source):
        yield "path", f"{shown} does not look like {name}: {layout.looks}"


def _sub_folders(source: Source, path: Path) -> Iterator[Finding]:
    there = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    for ours, folder in zip(("image", "mask"), folders_of(path, source), strict=True):
        if not folder.is_dir():
            key = f"columns.{ours}" if ours in source.columns else "path"
            yield key, f"there is no folder {folder}{did_you_mean(folder.name, there)}; there are {', '.join(there)}"
