"""The one file that a machine leaves: written anew after every measurement, free of what names the machine or its folders."""

import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_FILES = 8


class ResultFile:
    """`<folder>/<gpu>-<date>.json`; what was measured earlier on that day on such a GPU is replaced."""

    def __init__(self, folder: Path, gpu: str, date: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{slug(gpu)}-{date}.json"
        others = [path for path in folder.glob("*.json") if path != self.path]
        if len(others) >= MOST_FILES:
            raise FileExistsError(
                f"{folder} holds {len(others)} results already; move some away or take another folder"
            )
        self._skipped: dict[str, dict[str, str]] = {}
        self.content: dict[str, Any] = {"date": date, "tests": {}, "kernels": {}, "training": {}, "skipped": {}}

    def put(self, **sections: Any) -> None:
        """Replace whole sections."""
        self.content |= sections
        write_json(self.path, self.content)

    def skip(self, part: str, reasons: Mapping[str, str]) -> None:
        """What a part leaves out as far as it knows by now: name -> reason, in place of what it said before."""
        self._skipped[part] = dict(reasons)
        self.put(skipped={name: reason for each in self._skipped.values() for name, reason in each.items()})


def write_json(path: Path, value: Any) -> None:
    """Whoever reads it, or whenever it ends: the file is whole."""
    text = json.dumps(without_places(value), indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def read_json(path: Path) -> dict[str, Any]:
    """Empty where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def slug(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def without_places(value: Any) -> Any:
    """The value with no absolute folder and no host name in any of its texts."""
    if isinstance(value, Mapping):
        return {without_places(key): without_places(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(each) for each in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?<![\w.<:/])/(?:[\w.+@-]+/)+", "", value)
    host = platform.node()
    return re.sub(rf"\b{re.escape(host)}\b", "this machine", text) if len(host) > 3 else text
