"""Hash of a file's bytes."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
