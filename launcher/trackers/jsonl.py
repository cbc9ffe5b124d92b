"""metrics.jsonl in the run folder: one JSON object a line, flushed at once, losses in full precision.

A value that is not finite, such as the loss of a step that fp16 skips, is left out: JSON has no NaN.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Jsonl:
    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def open(folder: Path, plan: Any) -> Jsonl:
    path = folder / "metrics.jsonl"
    if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("a") as torn:  # a kill in the middle of a line: close it, so that the next line is whole
            torn.write("\n")
    return Jsonl(path)
