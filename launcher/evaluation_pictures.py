"""What the details of an evaluation draw, as files beside evaluation.json; see `launcher.metrics.Measured`."""

import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "pictures"
MOST = 12  # of errors, and as many others
NAMES = {"pictures": "file", "errors": "picture"}  # key of the details -> what the file is called there


def filed(details: Mapping[str, Any], run_folder: Path) -> dict[str, Any]:
    """The details with files in place of functions that draw; the pictures of an evaluation before are removed."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
    numbers = itertools.count(1)
    drawn = {
        key: [_filed(entry, name, run_folder, numbers, place < MOST) for place, entry in enumerate(details[key])]
        for key, name in NAMES.items()
        if key in details
    }
    return {**details, **drawn}


def without(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details without functions that draw."""
    plain = {key: [_undrawn(entry) for entry in details[key]] for key in NAMES if key in details}
    return {**details, **plain}


def _undrawn(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "image"}


def _filed(
    entry: Mapping[str, Any], name: str, run_folder: Path, numbers: Iterator[int], is_wanted: bool
) -> dict[str, Any]:
    plain = _undrawn(entry)
    if "image" not in entry or not is_wanted:
        return plain
    file = Path(FOLDER) / f"{next(numbers):04}.png"
    (run_folder / FOLDER).mkdir(exist_ok=True)
    entry["image"]().save(run_folder / file)
    return {**plain, name: file.as_posix()}
