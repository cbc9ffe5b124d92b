"""Which folder a run writes to, and from which checkpoint it goes on. No run is ever overwritten.

One that ended before its first step is none: its folder is taken again.
"""

import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher import consistency, log
from launcher.checkpoint import Checkpoint, Checkpoints
from launcher.engine import Engine
from launcher.errors import CheckpointError, LauncherError, RecipeError, StorageError
from launcher.recipe import Recipe
from launcher.run_folder import RunFolder

PAPERS = ("attempts.jsonl", "recipe.yaml", "log", "metrics.jsonl")  # by which a run's folder is known
FIRST_LOOK = ("metrics.jsonl", "samples.json")  # before the first step; whoever takes the folder again looks again


@dataclass(frozen=True)
class Place:
    """The run folder, its checkpoints, and the checkpoint to go on from, if any."""

    folder: Path
    checkpoints: Checkpoints
    resume_from: Checkpoint | None

    @property
    def first_step(self) -> int:
        return self.resume_from.step if self.resume_from else 0


def insist_on_room(recipe: Recipe, resume: str | None) -> None:
    """Refuse a folder that `choose` would refuse, before anything is made ready; what cannot be looked at yet is left to it."""
    with suppress(OSError):
        _folder(recipe, resume)


def choose(recipe: Recipe, resume: str | None, engine: Engine) -> Place:
    """Decide on rank zero, for all ranks. `resume` is None, `auto`, a run folder or a checkpoint folder."""
    outcome = engine.broadcast(_made(recipe, resume) if engine.is_main else None)
    if isinstance(outcome, LauncherError):
        raise outcome
    folder, single = outcome
    consistency.check_shared(folder, engine)
    checkpoints = Checkpoints(folder, recipe.checkpoint.save_total_limit, engine)
    if single is not None:
        checkpoints.go_back_to(single)
    found = checkpoints.newest_good() if resume is not None else None
    if single is not None and (found is None or found.step != single):
        raise CheckpointError(
            "this checkpoint does not verify", where=str(resume), fix="--resume auto takes the newest good one"
        )
    if found is not None:
        log.say(f"resuming {folder} from step {found.step}")
    elif resume is not None:
        log.say(f"nothing to resume in {folder}: starting from step 0")
    return Place(folder, checkpoints, found)


def _made(recipe: Recipe, resume: str | None) -> tuple[Path, int | None] | LauncherError:
    """What `_folder` says, once the folder is there and a file can be made in it; or the error that all ranks are to raise."""
    try:
        folder, step = _folder(recipe, resume)
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        if resume is None:
            _clear(folder)
        return folder, step
    except LauncherError as error:
        return error
    except OSError as error:
        return StorageError(
            f"the run folder cannot be written to: {error.strerror}",
            where=str(error.filename),
            fix="set output_dir to a folder that can be made and written to",
        )


def _folder(recipe: Recipe, resume: str | None) -> tuple[Path, int | None]:
    """The run folder, and the step if one certain checkpoint was asked for."""
    if resume not in (None, "auto"):
        folder, step = _named(Path(str(resume)))
        if recipe.output_dir is not None and Path(recipe.output_dir).resolve() != folder.resolve():
            raise RecipeError(
                f"output_dir is {recipe.output_dir}, --resume belongs to {folder}", fix="give one of them"
            )
        return folder, step
    if recipe.output_dir is None:
        return _new_or_newest(recipe, resume == "auto"), None
    folder = Path(recipe.output_dir)
    if folder.exists() and not folder.is_dir():
        raise RecipeError("output_dir is a file", where=str(folder))
    there = RunFolder(folder)
    if resume is None and (there.is_begun() or there.state() == "running"):
        fix = "go on with --resume auto, or choose another output_dir"
        raise RecipeError("this folder holds a run", where=str(folder), fix=fix)
    is_ours = any((folder / paper).exists() for paper in PAPERS)
    if folder.exists() and not is_ours and any(folder.iterdir()):
        raise RecipeError(
            "output_dir is neither empty nor a run folder", where=str(folder), fix="choose another output_dir"
        )
    return folder, None


def _clear(folder: Path) -> None:
    """Of a run without a step: its log and its attempts stay, what it measured goes."""
    known = (folder / "attempts.jsonl").exists()
    left = [folder / name for name in FIRST_LOOK if known and (folder / name).exists()]
    for path in left:
        path.unlink()
    if left:
        log.say(f"note: the run in {folder} ended before its first step; the folder is taken again")


def _named(path: Path) -> tuple[Path, int | None]:
    if (path / "checkpoints").is_dir():
        return path, None
    if (path / "MANIFEST.json").is_file() and path.name.startswith("step-"):
        return path.parent.parent, Checkpoint(path).step
    raise CheckpointError(
        "neither a run folder nor a checkpoint", where=str(path), fix="give RUN or RUN/checkpoints/step-NNNNNNNN"
    )


def _new_or_newest(recipe: Recipe, resume: bool) -> Path:
    """runs/<name>-<time>: a new one, or with `--resume auto` the newest that is there."""
    runs = Path("runs")
    if resume and (
        there := sorted(path for path in runs.glob(f"{recipe.name}-*") if (path / "attempts.jsonl").exists())
    ):
        return there[-1]
    base = runs / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = (base.with_name(f"{base.name}-{number}") for number in range(2, 1000))
    return base if not base.exists() else next(path for path in taken if not path.exists())
