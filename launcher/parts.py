"""Parts by name: `load("adapters", "lora")` is the module launcher/adapters/lora.py, found by its file alone.

A plug-in is an installed entry point of the group `launcher.<kind>`. A recipe can name nothing else: no dotted paths.
"""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from launcher.errors import RecipeError
from launcher.suggest import did_you_mean

SINGULAR = {"adapters": "method", "optimizers": "optimizer", "tasks": "task", "trackers": "tracker", "verbs": "verb"}


@cache
def _files(kind: str) -> frozenset[str]:
    folder = Path(__file__).parent / kind
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return frozenset(name for name in modules if not name.startswith("_"))


@cache
def _plug_ins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"launcher.{kind}")}


def names(kind: str) -> list[str]:
    """All parts of one kind (a folder of `launcher`), sorted."""
    return sorted(_files(kind) | set(_plug_ins(kind)))


def unavailable(kind: str, name: str) -> str:
    """The sentence for a name that no part has."""
    choices = names(kind)
    hint = did_you_mean(name, choices)
    return f"the {SINGULAR[kind]} {name} is not available in this version{hint}; available: {', '.join(choices)}"


def load(kind: str, name: str) -> ModuleType:
    """The module of one part. Raises RecipeError with the nearest name and the whole list when there is none."""
    if name not in names(kind):
        raise RecipeError(unavailable(kind, name))
    if name in _files(kind):
        return importlib.import_module(f"launcher.{kind}.{name}")
    module: object = _plug_ins(kind)[name].load()
    if not isinstance(module, ModuleType):
        raise RecipeError(f"the plug-in {name} of launcher.{kind} must be a module, not {type(module).__name__}")
    return module


def load_whole(kind: str, name: str) -> ModuleType:
    """A part that is a folder, with its files: `task.rows`, `task.objective`. `load` alone reads only its options."""
    module = load(kind, name)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{module.__name__}.{found.name}")
    return module
