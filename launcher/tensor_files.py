"""Streams of named tensors as safetensors files of limited size, in Hugging Face's layout.

    stem.safetensors     or     stem-00001-of-00003.safetensors ... and stem.safetensors.index.json

Neither writing nor reading ever holds more than one file's worth of tensors.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from launcher.errors import CheckpointError

FILE_BYTES = 5 * 10**9


def write(folder: Path, stem: str, tensors: Iterable[tuple[str, Tensor | None]], file_bytes: int = FILE_BYTES) -> None:
    """Write a stream; `None` stands for a tensor that another process writes.

    The stream is gone through to its end even after an OSError, since other processes may be going through it in step.
    """
    failure: OSError | None = None
    waiting: dict[str, Tensor] = {}
    files: list[list[str]] = []

    def empty() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem}-{len(files) + 1:05d}.safetensors"
        with os_errors():
            save_file(waiting, path, metadata={"format": "pt"})
        files.append(list(waiting))
        waiting.clear()

    for name, tensor in tensors:
        if tensor is None or failure:
            continue
        try:
            if waiting and sum(t.nbytes for t in waiting.values()) + tensor.nbytes > file_bytes:
                empty()
        except OSError as error:
            failure = error
        waiting[name] = tensor
    if failure:
        raise failure
    if waiting:
        empty()
    _name(folder, stem, files)


@contextmanager
def os_errors() -> Iterator[None]:
    """Around all that writes safetensors: what it wraps into an error of its own, as a full disk, is an OSError again."""
    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def read(folder: Path, stem: str) -> dict[str, Callable[[], Tensor]]:
    """Name -> what reads that tensor. CheckpointError for files that are not there or cannot be opened."""
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
        paths = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    else:
        paths = [folder / f"{stem}.safetensors"]
    found: dict[str, Callable[[], Tensor]] = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as tensors:
                found |= {name: partial(_tensor, path, name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot be read: {error}", where=str(path)) from error
    return found


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as tensors:
        return tensors.get_tensor(name)


def _name(folder: Path, stem: str, files: list[list[str]]) -> None:
    """Final names, once it is known how many files there are."""
    for number, _ in enumerate(files, 1):
        final = f"{stem}.safetensors" if len(files) == 1 else f"{stem}-{number:05d}-of-{len(files):05d}.safetensors"
        (folder / f"{stem}-{number:05d}.safetensors").rename(folder / final)
    if len(files) > 1:
        where = {
            name: f"{stem}-{n:05d}-of-{len(files):05d}.safetensors"
            for n, names in enumerate(files, 1)
            for name in names
        }
        index = {"metadata": {}, "weight_map": where}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))
