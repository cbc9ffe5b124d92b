"""A picture or a sound in a prepared row: its path, or its bytes where it has none, and the digest of what it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from launcher.errors import DataError


def kinds(name: str) -> dict[str, str]:
    """Columns of prepared rows that hold the medium `name`."""
    return {name: "text", f"{name}_bytes": "bytes", f"{name}_digest": "text"}


def first_read(name: str, source: str | bytes, what: str, where: str) -> tuple[dict[str, Any], bytes]:
    """The columns of `kinds` and the content. `what`: picture or sound, for messages. DataError for a file that cannot be read."""
    inside = isinstance(source, bytes)
    content = _content(source, what, where)
    values = ("" if inside else source, source if inside else b"", xxh3_128_hexdigest(content))
    return dict(zip(kinds(name), values, strict=True)), content


def read(row: Mapping[str, Any], name: str, what: str) -> tuple[bytes, str]:
    """The content of a prepared row's medium, and where it is from. DataError where it is not what it was."""
    where = row[name] or row["where"]
    content = _content(row[name] or row[f"{name}_bytes"], what, where)
    if xxh3_128_hexdigest(content) != row[f"{name}_digest"]:
        raise DataError(f"the {what} has changed since the data was prepared", where=where, fix="start again")
    return content, where


def _content(source: str | bytes, what: str, where: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise DataError(
            f"the {what} cannot be read: {error.strerror}", where=where or source, fix="put the file there"
        ) from error
