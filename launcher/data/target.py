"""Where a conversion writes to: what is refused at once, and a place beside it until all is well."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.data.writers import WRITERS
from launcher.data.writers.writer import Writer
from launcher.errors import EnvironmentProblem, RecipeError, StorageError, printable
from launcher.schema import Source
from launcher.suggest import did_you_mean


@dataclass(frozen=True)
class Target:
    """What is to be written. `to`: a name of WRITERS."""

    to: str
    path: Path
    copy_media: bool = False
    allow_loss: bool = False
    overwrite: bool = False
    skip: bool = False

    @property
    def writer(self) -> Writer:
        return WRITERS[self.to]

    @property
    def copies(self) -> bool:
        return self.copy_media or self.writer.copies

    @property
    def media(self) -> Path:
        """The folder beside a file for copies of pictures and sounds."""
        return self.path.with_name(f"{self.path.stem}_{self.path.suffix[1:]}_media")


def refuse(inputs: Sequence[Source], target: Target) -> None:
    """RecipeError or EnvironmentProblem for a target that cannot be written to, before anything is read."""
    if target.to not in WRITERS:
        hint = did_you_mean(target.to, WRITERS)
        raise RecipeError(f"--to {target.to}: there is no such format ({', '.join(WRITERS)}){hint}")
    suffixes, path = target.writer.suffixes, target.path
    if suffixes and path.suffix not in suffixes:
        raise RecipeError(f"{target.to} is read from files that end with {' or '.join(suffixes)}", where=str(path))
    if path.name in ("", ".."):
        raise RecipeError("is no name of a new file or folder", where=str(path), fix="name one")
    if printable(str(path.absolute())) != str(path.absolute()):
        raise RecipeError("the name is not UTF-8", where=str(path), fix="name another")
    _insist_on_new(target)
    for one in inputs:
        _insist_on_apart(Path(one.path), path)


def _insist_on_new(target: Target) -> None:
    path = target.path
    for there in (path, *([target.media] if target.copies and target.writer.suffixes else [])):
        if os.path.lexists(there) and not target.overwrite:
            raise EnvironmentProblem("is there already", where=str(there), fix="name another, or add --overwrite")
    if path.is_dir() and not path.is_symlink() and target.writer.suffixes:
        raise EnvironmentProblem(f"is a folder, and {target.to} is a file", where=str(path), fix="name another")
    if path.is_file() and not target.writer.suffixes:
        raise EnvironmentProblem(f"is a file, and {target.to} is a folder", where=str(path), fix="name another")


def _insist_on_apart(given: Path, path: Path) -> None:
    """Else what is read would be replaced, or what is written would be read the next time."""
    here, there = Path(os.path.realpath(path)), Path(os.path.realpath(given))
    if given.exists() and (here == there or here in there.parents or there in here.parents):
        raise RecipeError(f"lies in what is read, {given}, or holds it", where=str(path), fix="name another place")


@contextmanager
def staged(target: Target) -> Iterator[Path]:
    """A folder beside the target, which becomes it, or whose content does; gone if anything fails."""
    stage = target.path.absolute().with_name(f".{target.path.name}.{os.getpid()}.partial")
    try:
        stage.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        yield stage
        if not target.writer.suffixes:
            _rename(stage, target.path)
        else:
            if (stage / target.media.name).exists():
                _rename(stage / target.media.name, target.media)
            _rename(stage / target.path.name, target.path)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise StorageError(problem, where=str(target.path), fix="make room, or name another place") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _rename(staged: Path, path: Path) -> None:
    """A folder that is there is set aside first, since a rename replaces files only."""
    aside = staged.with_name(f"{staged.name}.old")
    if staged.is_dir() and os.path.lexists(path):
        os.rename(path, aside)
    os.replace(staged, path)
    if aside.is_symlink() or aside.is_file():
        aside.unlink()
    shutil.rmtree(aside, ignore_errors=True)
