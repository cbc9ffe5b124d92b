"""The sweep's folder: `study.json` says what was asked for, `recipe.yaml` is what trials are started from, `trials/0007` is a run.

A sweep goes on only with the recipe and the space that it was begun with; more trials, or more workers, make no difference.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import CheckpointError, RecipeError, StorageError
from launcher.recipe import Recipe
from launcher.recipe.searching import greater_is_better, metric_of

CARD, DATABASE, LOCK, TRIALS = "study.json", "sweep.db", "sweep.lock", "trials"
NO_DIFFERENCE = ("trials", "workers", "nproc", "storage")  # keys of sweep that change nothing about a trial


@dataclass(frozen=True)
class Place:
    """A sweep's folder, what it is asked for, and the word by which its storage knows it."""

    folder: Path
    study: str
    asked: dict[str, Any]
    token: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.asked, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    def trial(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:04d}"


def folder_of(recipe: Recipe, resume: str | None) -> Path:
    """Where the sweep is or will be. `resume` is None, `auto` or a sweep's folder."""
    if resume not in (None, "auto"):
        folder = Path(str(resume))
        if not (folder / CARD).is_file():
            raise CheckpointError(
                "there is no sweep", where=str(folder), fix="give the folder that holds its study.json"
            )
        if recipe.output_dir is not None and Path(recipe.output_dir).resolve() != folder.resolve():
            raise RecipeError(
                f"output_dir is {recipe.output_dir}, --resume belongs to {folder}", fix="give one of them"
            )
        return folder
    folder = Path(recipe.output_dir) if recipe.output_dir else _new_or_newest(recipe.name, resume == "auto")
    if folder.exists() and not folder.is_dir():
        raise RecipeError("output_dir is a file", where=str(folder))
    is_there = (folder / CARD).is_file()
    if is_there and resume is None:
        fix = "go on with --resume auto, or choose another output_dir"
        raise RecipeError("this folder holds a sweep", where=str(folder), fix=fix)
    if not is_there and folder.exists() and not _is_ours(folder):
        fix = "choose another output_dir"
        raise RecipeError("output_dir is neither empty nor a sweep's folder", where=str(folder), fix=fix)
    return folder


def _is_ours(folder: Path) -> bool:
    """Empty, or left by a sweep that was stopped before it had begun, or that another process begins just now."""
    return (folder / LOCK).exists() or not any(folder.iterdir())


def _new_or_newest(name: str, resume: bool) -> Path:
    runs = Path("runs")
    if resume and (there := sorted(path.parent for path in runs.glob(f"{name}-sweep-*/{CARD}"))):
        return there[-1]
    return runs / f"{name}-sweep-{time.strftime('%Y%m%d-%H%M%S')}"


def settle(folder: Path, recipe: Recipe) -> Place:
    """Write down what is asked for, or insist that it is what was; the storage is locked meanwhile."""
    asked = _asked(recipe)
    assert recipe.sweep is not None
    name = recipe.sweep.study or recipe.name
    card = folder / CARD
    if card.is_file():
        there = _read(card)
        if different := [*_differences(there["asked"], asked)]:
            shown = "".join(f"\n  {line}" for line in different)
            raise RecipeError(
                f"this sweep was begun with another recipe:{shown}", where=str(folder), fix="choose another output_dir"
            )
        return Place(folder, there["study"], asked, there["token"])
    place = Place(folder, name, asked, secrets.token_hex(8))
    place.recipe.write_text(recipe.as_written(), encoding="utf-8")
    write_json(card, {"study": name, "digest": place.digest, "token": place.token, "asked": asked})
    return place


def _read(card: Path) -> dict[str, Any]:
    try:
        there = json.loads(card.read_text(encoding="utf-8"))
        return {"study": str(there["study"]), "asked": dict(there["asked"]), "token": str(there["token"])}
    except (ValueError, TypeError, KeyError) as error:
        fix = "choose another output_dir"
        raise CheckpointError("the sweep's study.json cannot be read", where=str(card), fix=fix) from error


def _asked(recipe: Recipe) -> dict[str, Any]:
    """All that a trial and its place in the ranking depend on."""
    assert recipe.sweep is not None
    sweep = recipe.sweep.model_dump(mode="json", exclude=set(NO_DIFFERENCE))
    judged = {"metric": metric_of(recipe), "greater_is_better": greater_is_better(recipe)}
    study = recipe.sweep.study or recipe.name
    seed = recipe.seed if recipe.sweep.seed is None else recipe.sweep.seed
    return {"recipe": yaml.safe_load(recipe.as_written()), "sweep": sweep | judged | {"study": study, "seed": seed}}


def _differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """`optimizer.learning_rate: 1e-4 there, 2e-4 here`, for each key that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in dict.fromkeys((*there, *here)):
            yield from _differences(there.get(name), here.get(name), f"{key}.{name}".lstrip("."))
    elif there != here:
        yield f"{key.removeprefix('recipe.')}: {json.dumps(there)} there, {json.dumps(here)} here"


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """In one move, so that whoever looks sees the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(part, path)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", where=str(path), fix="make room, then --resume auto"
        ) from error
