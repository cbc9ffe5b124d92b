"""Checkpoints that are whole or absent: a staged folder, a manifest of hashes, a rename.

    checkpoints/step-00000100/{MANIFEST.json, model/, optimizer/, state.json}
    checkpoints/latest          a hint; the truth is found by scanning and verifying

A published folder is never written to again. Leftovers of a killed save (`.tmp-*`, `.trash-*`) are swept at the next start.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from launcher import log
from launcher.engine import Engine
from launcher.errors import CheckpointError, StorageError

SCHEMA = 3  # of MANIFEST.json and state.json


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint folder."""

    folder: Path

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step-"))

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    def problems(self) -> list[str]:
        """What differs from the manifest: empty when every byte is as it was written."""
        try:
            manifest = json.loads((self.folder / "MANIFEST.json").read_text())
            expected = {name: tuple(entry) for name, entry in manifest["files"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            return [f"MANIFEST.json: {type(error).__name__}: {error}"]
        found = {str(path.relative_to(self.folder)): path for path in _files(self.folder)}
        missing = [f"{name}: missing" for name in expected if name not in found]
        return missing + [f"{n}: changed" for n, p in found.items() if n in expected and _fingerprint(p) != expected[n]]


class Checkpoints:
    """The checkpoints of one run folder. Every rank calls; rank zero writes, chooses and deletes, and tells the others."""

    def __init__(self, run_folder: Path, keep: int, engine: Engine):
        self.root, self._keep, self._engine = run_folder / "checkpoints", keep, engine
        if engine.is_main:
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()

    def published(self) -> list[Checkpoint]:
        """Oldest first."""
        folders = [path for path in self.root.glob("step-*") if (path / "MANIFEST.json").is_file()]
        return sorted((Checkpoint(path) for path in folders), key=lambda checkpoint: checkpoint.step)

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.root / _name(step)

    def of_step(self, step: int) -> Checkpoint:
        """The checkpoint of a step, verified. CheckpointError where it is gone or damaged."""
        checkpoint = Checkpoint(self.folder(step))
        if problems := self._engine.broadcast(checkpoint.problems() if self._engine.is_main else None):
            raise CheckpointError(
                f"the checkpoint of step {step} is gone or damaged: {'; '.join(problems[:3])}",
                where=str(checkpoint.folder),
                fix="choose another with `launcher export RUN --step N`",
            )
        return checkpoint

    def newest_good(self) -> Checkpoint | None:
        """The newest checkpoint that verifies. Broken ones go to `quarantine/`; if none is left of some, that is an error."""
        chosen, broken = self._engine.broadcast(self._choose() if self._engine.is_main else None)
        if chosen is None and broken:
            raise CheckpointError(
                f"none of the {broken} checkpoints verifies",
                where=str(self.root),
                fix="start anew with another output_dir",
            )
        return None if chosen is None else Checkpoint(Path(chosen))

    def save(
        self, step: int, state: Mapping[str, Any], writers: Sequence[Callable[[Path], None]], best_step: int | None
    ) -> None:
        """Publish step `step`. Each of `writers` puts something into the folder it is given, on all ranks together.

        Failure is the same error on every rank.
        """
        exists = self._engine.is_main and self.folder(step).exists()
        if self._engine.broadcast(exists):
            return
        staged = self.root / f".tmp-{_name(step)}-{secrets.token_hex(4)}"
        try:
            self._together(step, staged.mkdir)
            for write in writers:
                self._together(step, lambda write=write: write(staged), on_main_alone=False)
            self._together(step, lambda: self._publish(step, state, staged))
            self._together(step, lambda: self._retire(best_step))
        finally:
            if self._engine.is_main:
                shutil.rmtree(staged, ignore_errors=True)

    def _together(self, step: int, act: Callable[[], None], on_main_alone: bool = True) -> None:
        """Rank zero's OSError becomes an error on every rank, so that no rank waits for one that gave up."""
        failure = None
        try:
            if self._engine.is_main or not on_main_alone:
                act()
        except OSError as error:
            failure = f"the checkpoint of step {step} could not be written: {error}"
        failure = next(filter(None, self._engine.gather(failure)), None)
        if failure:
            raise StorageError(
                failure,
                where=str(self.root),
                fix="free space and go on with --resume auto; older checkpoints are untouched",
            )

    def go_back_to(self, step: int) -> None:
        """Put the checkpoints after `step` aside: the run goes on from there and will write those steps again."""
        if self._engine.is_main:
            for checkpoint in self.published():
                if checkpoint.step > step:
                    log.say(f"{checkpoint.folder.name} is put aside: the run goes back to step {step}")
                    self._put_aside(checkpoint)
        self._engine.barrier()

    def _put_aside(self, checkpoint: Checkpoint) -> None:
        quarantine = self.root / "quarantine"
        quarantine.mkdir(exist_ok=True)
        os.replace(checkpoint.folder, quarantine / f"{checkpoint.folder.name}-{secrets.token_hex(4)}")

    def _publish(self, step: int, state: Mapping[str, Any], staged: Path) -> None:
        (staged / "state.json").write_text(json.dumps({"schema": SCHEMA, "step": step, **state}, indent=1))
        files = {str(path.relative_to(staged)): _fingerprint(path) for path in _files(staged)}
        manifest = {"schema": SCHEMA, "step": step, "world_size": self._engine.world_size, "files": files}
        (staged / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
        publish(staged, self.folder(step))
        hint = self.root / ".latest"
        hint.write_text(_name(step) + "\n")
        os.replace(hint, self.root / "latest")

    def _choose(self) -> tuple[str | None, int]:
        candidates = self.published()
        for checkpoint in reversed(candidates):
            problems = checkpoint.problems()
            if not problems:
                return str(checkpoint.folder), len(candidates)
            log.say(f"checkpoint {checkpoint.folder.name} is damaged and put aside: {'; '.join(problems[:3])}")
            self._put_aside(checkpoint)
        return None, len(candidates)

    def _retire(self, best_step: int | None) -> None:
        """Delete all but the newest and the best: renamed first, so that no half-deleted folder is ever taken for whole."""
        for checkpoint in self.published()[: -self._keep]:
            if checkpoint.step != best_step:
                trash = self.root / f".trash-{checkpoint.folder.name}-{secrets.token_hex(4)}"
                os.replace(checkpoint.folder, trash)
                shutil.rmtree(trash, ignore_errors=True)

    def _sweep(self) -> None:
        for leftover in [*self.root.glob(".tmp-*"), *self.root.glob(".trash-*")]:
            shutil.rmtree(leftover, ignore_errors=True)


def publish(staged: Path, final: Path) -> None:
    """Make a folder appear under its name, whole and on disk: sync its files, rename, sync the parent."""
    for path in [*staged.rglob("*"), staged]:
        _sync(path)
    os.replace(staged, final)
    _sync(final.parent)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "MANIFEST.json")


def _fingerprint(path: Path) -> tuple[int, str]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as content:
        while block := content.read(2**22):
            digest.update(block)
    return path.stat().st_size, digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
