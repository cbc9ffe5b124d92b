"""Checkpoints that are whole or absent: a staged folder, a manifest of hashes, a rename.

    checkpoints/step-00000100/{MANIFEST.json, model/, optimizer/, state.json}
    checkpoints/latest          a hint; the truth is found by scanning and verifying

A published folder is never written to again. Leftovers of a killed save (`.tmp-*`, `.trash-*`) are swept at the next start.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file, save_file

from launcher import log
from launcher.engine import Engine
from launcher.errors import CheckpointError, StorageError

SCHEMA = 1


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

    def save(self, step: int, state: Mapping[str, Any], write: Callable[[Path], None], best_step: int | None) -> None:
        """Publish step `step`: `write(folder)` puts model/ and optimizer/ there. Failure is the same error on every rank."""
        failure = None
        if self._engine.is_main and not (self.root / _name(step)).exists():
            try:
                self._publish(step, state, write)
                self._retire(best_step)
            except OSError as error:
                failure = f"the checkpoint of step {step} could not be written: {error}"
        failure = self._engine.broadcast(failure)
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

    def _publish(self, step: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> None:
        staged = self.root / f".tmp-{_name(step)}-{secrets.token_hex(4)}"
        try:
            staged.mkdir()
            write(staged)
            (staged / "state.json").write_text(json.dumps({"schema": SCHEMA, "step": step, **state}, indent=1))
            files = {str(path.relative_to(staged)): _fingerprint(path) for path in _files(staged)}
            manifest = {"schema": SCHEMA, "step": step, "world_size": self._engine.world_size, "files": files}
            (staged / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
            publish(staged, self.root / _name(step))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
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


def write_optimizer(folder: Path, engine: Engine) -> None:
    """optimizer/: optimizer.safetensors has each state tensor as `<parameter name>//<state>`, numbers.json what is no tensor."""
    names = _names(engine)
    states = {
        f"{names[id(parameter)]}//{key}": value
        for parameter, states in engine.optimizer.state.items()
        for key, value in states.items()
        if value is not None
    }
    tensors = {name: value for name, value in states.items() if torch.is_tensor(value)}
    folder.mkdir()
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / "optimizer.safetensors")
    (folder / "numbers.json").write_text(json.dumps({name: states[name] for name in states.keys() - tensors.keys()}))


def read_optimizer(folder: Path, engine: Engine) -> None:
    """Load what `write_optimizer` wrote. A state for other parameters than the model trains is an error that names the first."""
    names, parameters = _names(engine), [p for group in engine.optimizer.param_groups for p in group["params"]]
    index_of = {names[id(parameter)]: index for index, parameter in enumerate(parameters)}
    state: dict[int, dict[str, Any]] = {}
    numbers = json.loads((folder / "numbers.json").read_text())
    for key, value in {**load_file(folder / "optimizer.safetensors"), **numbers}.items():
        name, kind = key.split("//")
        if name not in index_of:
            raise CheckpointError(
                f"the checkpoint trained {name}, this recipe does not",
                where=str(folder),
                fix="resume with the recipe of the run",
            )
        state.setdefault(index_of[name], {})[kind] = value
    untouched = [name for name, index in index_of.items() if index not in state]
    if state and untouched:
        raise CheckpointError(
            f"the checkpoint has no optimizer state for {untouched[0]}",
            where=str(folder),
            fix="resume with the recipe of the run",
        )
    groups = engine.optimizer.state_dict()["param_groups"]
    engine.optimizer.load_state_dict({"state": state, "param_groups": groups})
    for index, saved in state.items():
        _undo_casts(engine.optimizer.state[parameters[index]], saved)


def save_model(model: Any, folder: Path) -> None:
    """A Hugging Face folder of the model, or of its adapter alone where PEFT wraps it."""
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, **options)


def load_model(model: Any, folder: Path) -> None:
    """Put the weights of `save_model` into a model of the same recipe."""
    if hasattr(model, "peft_config"):
        _load_adapter(model, folder)
        return
    fresh, report = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *(str(m) for m in report["mismatched_keys"])]
    if wrong:
        raise CheckpointError(f"{wrong[0]} is missing, unexpected or of another shape", where=str(folder))
    model.load_state_dict(fresh.state_dict())


def _load_adapter(model: Any, folder: Path) -> None:
    import peft

    saved = peft.load_peft_weights(str(folder), device="cpu")
    expected = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    if wrong := sorted(saved.keys() ^ expected.keys()):
        raise CheckpointError(
            f"{wrong[0]} is {'unexpected' if wrong[0] in saved else 'missing'}",
            where=str(folder),
            fix="resume with the recipe of the run",
        )
    try:
        peft.set_peft_model_state_dict(model, saved)
    except RuntimeError as error:
        raise CheckpointError(
            f"the adapter does not fit: {str(error).splitlines()[-1].strip()}",
            where=str(folder),
            fix="resume with the recipe of the run",
        ) from error


def _undo_casts(loaded: dict[str, Any], saved: dict[str, Any]) -> None:
    """PyTorch gives a state the type of its parameter; some optimizers keep fp32 beside bf16."""
    for key, value in saved.items():
        if torch.is_tensor(value) and loaded[key].dtype != value.dtype:
            loaded[key] = value.to(loaded[key].device)


def _names(engine: Engine) -> dict[int, str]:
    """The id of each parameter -> its name in the objective."""
    return {id(parameter): name for name, parameter in engine.objective.named_parameters()}


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
