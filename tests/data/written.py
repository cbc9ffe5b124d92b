"""What tests of data share: writing files, and reading a source with any format of the launcher."""

import json
import os
from pathlib import Path
from typing import Any

from launcher.data import sources
from launcher.errors import DataError
from launcher.schema import Source
from launcher.section import freeze


def put(folder: Path, name: str, content: Any) -> Path:
    """Bytes and text as they are, a list as lines of JSON for .jsonl, anything else as JSON."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = "".join(json.dumps(row) + "\n" for row in content) if path.suffix == ".jsonl" else json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def touch(folder: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        put(folder, name, os.fsencode(name))


def voc(filename: str, *objects: tuple[str, tuple[Any, ...]]) -> str:
    """A Pascal VOC file: each object has its name and xmin, ymin, xmax, ymax."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, corners, strict=True))
        + "</bndbox></object>"
        for name, corners in objects
    )
    return f"<annotation><filename>{filename}</filename>{inner}</annotation>"


def source(path: Path, **options: Any) -> Source:
    return Source.model_validate({"path": str(path), **{key: freeze(value) for key, value in options.items()}})


def read(path: Path, *formats: str, labelled: bool = True, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    return list(sources.examples(source(path, **options), formats, labelled=labelled))


def rows(path: Path, *formats: str, **options: Any) -> list[dict[str, Any]]:
    return [example for _, example in read(path, *formats, **options)]


def spoiled(path: Path, *formats: str, **options: Any) -> tuple[list[dict[str, Any]], list[DataError]]:
    """The examples, and the errors of the rows that gave none."""
    errors: list[DataError] = []
    return [example for _, example in sources.examples(source(path, **options), formats, errors.append)], errors
