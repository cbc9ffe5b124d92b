"""One way to compute a step: the user's recipe with some changes, set up and run by the code that trains."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher import batch_size, engine, loop, model, parts, plan, processor, quantize, recipe, run
from launcher.checkpoint import Checkpoints
from launcher.data.context import Context
from launcher.data.order import Order, Source
from launcher.engine import Engine
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.notes import Notes
from launcher.output import Place
from launcher.recipe import Recipe
from launcher.rows import Reader
from launcher.run import Prepared, Run
from launcher.verify_math import Job, variants
from launcher.verify_math.variants import Variant
from launcher.world import World

REFUSALS = (RecipeError, EnvironmentProblem)  # the launcher would not train like this, and every rank knows
MicroBatches = list[tuple[int, dict[str, Tensor]]]  # those of this rank, numbered


class FirstRows:
    """The first rows of the prepared training data, as a run wants its data."""

    def __init__(self, rows: Any, number: int):
        self.lengths: np.ndarray = rows.lengths[:number]
        self.read = rows.read

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Setting:
    """What all variants share. `folder` holds what one of them leaves for the others."""

    job: Job
    folder: Path
    task: ModuleType
    context: Context
    rows: Any

    @classmethod
    def of(cls, job: Job, folder: Path) -> "Setting":
        loaded = recipe.load(job.recipe, job.overrides)
        if loaded.method == "qlora":
            quantize.insist_on_bitsandbytes()
        task = parts.load_whole("tasks", loaded.task)
        reader = Reader(loaded, task, processor.load(loaded, task.TRAITS))
        rows = reader.rows("train")
        assert rows is not None, "a recipe without training data is refused"
        return cls(job, folder, task, reader.context(rows), FirstRows(rows, job.rows))

    def recipe(self, changes: Mapping[str, str]) -> Recipe:
        """The user's with some keys changed; an override of the same key gives way."""
        kept = [override for override in self.job.overrides if override.partition("=")[0] not in changes]
        return recipe.load(self.job.recipe, [*kept, *(f"{key}={value}" for key, value in changes.items())])

    def prepared(self, variant: Variant, in_fp32: bool) -> Prepared:
        """As `run.prepare_all`, of the variant's recipe and the first rows alone; `in_fp32` whatever the recipe's precision."""
        world = engine.world()
        changes = {**variant.changes, **(variants.in_fp32(self.recipe({})) if in_fp32 else {})}
        changed = self.recipe(changes | _batch_changes(self.recipe(changes), self.rows, variant.cut, world))
        adapter, context = parts.load("adapters", changed.method), self.context
        facts = model.facts(changed, self.task, adapter, context.processor, context.head)
        made = plan.make(changed, world, facts, lambda size: _order(changed, self.rows, size, world), context=context)
        order = _order(changed, self.rows, made.global_batch_size, world)
        return Prepared(changed, self.task, context, self.rows, None, order, made)


@contextmanager
def set_up(prepared: Prepared, folder: Path) -> Iterator[Run]:
    """A run before its first step. Afterwards there is room for another one in this process, unless it failed."""
    running = Engine(prepared.plan)
    try:
        yield run.set_up(prepared, running, Place(folder, Checkpoints(folder, 2, running), None))
    except Exception as error:
        if not isinstance(error, REFUSALS):  # other ranks may be waiting, and to close would be to wait for them
            raise
        _close(running)
        raise
    _close(running)


def _close(running: Engine) -> None:
    running.close()
    gc.collect()
    torch.cuda.empty_cache()


def first_batch(ready: Run) -> MicroBatches:
    return next(ready.steps())[1]


def backward(ready: Run, micro_batches: MicroBatches) -> float:
    """The loss of the first step; its gradients stay in the engine."""
    loop.backward(ready, 0, micro_batches, {})
    return float(ready.meter.read()["train/loss"])


def _batch_changes(recipe: Recipe, rows: FirstRows, cut: int | None, world: World) -> dict[str, str]:
    """Changes of a recipe that make the rows one global batch, in `cut` micro-batches or, for None, of the recipe's own size.

    The size is at most what leaves none of the processes without rows; the last micro-batches may be short or empty, as in the
    last step of an epoch.
    """
    units = len(_order(recipe, rows, 1, world).units(0))
    if cut is None:
        notes = Notes(recipe)
        batch_size.derive(notes, recipe, world)
        per_device = min(notes["per_device_train_batch_size"], -(-units // world.size))
    else:
        per_device = -(-units // cut)
    accumulation = -(-units // (per_device * world.size))
    return {
        "training.per_device_train_batch_size": str(per_device),
        "training.global_batch_size": str(per_device * accumulation * world.size),
        "training.gradient_accumulation_steps": "null",
    }


def _order(recipe: Recipe, rows: FirstRows, global_batch_size: int, world: World) -> Order:
    """Packed rows are short enough that there are two or more for each process."""
    share = -(-int(rows.lengths.sum()) // (2 * world.size))
    capacity = min(recipe.data.max_length, max(share, int(rows.lengths.max()))) if recipe.data.packing else None
    return Order(rows.lengths, (Source(np.arange(len(rows))),), recipe.seed, global_batch_size, capacity)
