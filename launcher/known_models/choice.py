"""Which of the known models a person asks for, what of them fits a GPU, and the shipped recipe to begin with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from launcher import parts, shipped
from launcher.errors import RecipeError
from launcher.known_models import KINDS, METHODS, Known, models
from launcher.memory.cards import Card, card


@dataclass(frozen=True)
class Asked:
    """None: any. `methods`: those to tell of."""

    task: str | None
    gpu: Card | None
    methods: tuple[str, ...]


def asked(task: str | None, gpu: str | None, method: str | None) -> Asked:
    """From the words of the command line. RecipeError, with the name that was meant, for one that is not known."""
    if task is not None and task not in parts.names("tasks"):
        raise RecipeError(parts.unavailable("tasks", task))
    if method is not None and method not in METHODS:
        if method in parts.names("adapters"):
            raise RecipeError(f"--method {method}: memory is known for {', '.join(METHODS)}")
        raise RecipeError(parts.unavailable("adapters", method))
    return Asked(task, None if gpu is None else card(gpu, "--gpu"), METHODS if method is None else (method,))


def chosen(what: Asked) -> dict[str, list[Known]]:
    """Kind -> its models that can do the task with one of the methods."""
    found: dict[str, list[Known]] = {kind: [] for kind in KINDS}
    for known in models():
        if what.task in (None, *known.tasks) and any(method in known.memory_bytes for method in what.methods):
            found[known.kind].append(known)
    return {kind: listed for kind, listed in found.items() if listed}


def fitting(known: Known, what: Asked) -> tuple[str, ...]:
    """The methods whose memory the GPU has."""
    assert what.gpu is not None
    limit, sizes = what.gpu.memory_bytes, known.memory_bytes
    return tuple(method for method in what.methods if method in sizes and sizes[method] <= limit)


def own_recipe(known: Known, what: Asked) -> str | None:
    """A shipped recipe for this very model and the task, of the first of the methods that has one."""
    task, names = what.task or KINDS[known.kind].task, _recipes()
    found = (names.get((task, known.name, method)) for method in what.methods)
    return next((name for name in found if name is not None), None)


def start(kind: str, task: str | None) -> str:
    """The shipped recipe to begin with: that which memory is reckoned with, or one for the task that was asked for."""
    if task in (None, KINDS[kind].task):
        return KINDS[kind].recipe
    return next((name for (of, _, _), name in _recipes().items() if of == task), KINDS[kind].recipe)


@cache
def _recipes() -> Mapping[tuple[str, str, str], str]:
    """(task, model, method) -> name of the first recipe that has them all."""
    found: dict[tuple[str, str, str], str] = {}
    for path in sorted(shipped.folder("recipes").glob("*.yaml")):
        said: Any = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        name = (said.get("model") or {}).get("name_or_path")
        if name is not None:
            found.setdefault((said.get("task"), name, said.get("method")), path.stem)
    return found
