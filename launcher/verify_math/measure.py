"""One way to compute a step: the user's recipe with some changes, set up and run by the code that trains."""

import gc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher import batch_size, loop, model, parts, plan, run
from launcher.checkpoint import Checkpoints
from launcher.data.order import Order, Source
from launcher.engine import Engine
from launcher.notes import Notes
from launcher.output import Place
from launcher.recipe import Recipe
from launcher.run import Prepared, Run
from launcher.world import World

MicroBatches = list[tuple[int, dict[str, Tensor]]]  # those of this rank, numbered


class FirstRows:
    """The first rows of the prepared training data, as a run wants its data."""

    def __init__(self, rows: Any, number: int):
        self.lengths: np.ndarray = rows.lengths[:number]
        self.tokens = rows.tokens

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Data:
    """What all variants share."""

    task: ModuleType
    tokenizer: Any
    rows: FirstRows


def read_data(recipe: Recipe, number: int) -> Data:
    task = parts.load_whole("tasks", recipe.task)
    tokenizer = model.load_tokenizer(recipe)
    return Data(task, tokenizer, FirstRows(run.prepare_rows(recipe, task, tokenizer, "train"), number))


def batch_changes(recipe: Recipe, rows: FirstRows, cut: int | None, world: World) -> dict[str, str]:
    """Changes of a recipe that make the rows one global batch, in `cut` micro-batches or, for None, of the recipe's own size.

    The size is at most what leaves none of the processes without rows; the last micro-batches may be short or empty, as in the
    last step of an epoch.
    """
    units = len(_order(recipe, rows, 1).units(0))
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


def prepare(recipe: Recipe, data: Data, world: World) -> Prepared:
    """As `run.prepare_all`, of the first rows alone."""
    facts = model.facts(recipe, data.task, parts.load("adapters", recipe.method))
    made = plan.make(recipe, world, facts, lambda size: _order(recipe, data.rows, size))
    order = _order(recipe, data.rows, made.global_batch_size)
    return Prepared(recipe, data.task, data.tokenizer, data.rows, None, order, made)


@contextmanager
def set_up(prepared: Prepared, folder: Path) -> Iterator[Run]:
    """A run before its first step; afterwards there is room for another one in this process."""
    running = Engine(prepared.plan)
    try:
        yield run.set_up(prepared, running, Place(folder, Checkpoints(folder, 2, running), None))
    finally:
        running.close()
        gc.collect()
        torch.cuda.empty_cache()


def first_batch(ready: Run) -> MicroBatches:
    with closing(ready.steps()) as steps:
        return next(steps)[1]


def backward(ready: Run, micro_batches: MicroBatches) -> float:
    """The loss of the first step; its gradients stay in the engine."""
    loop.backward(ready, 0, micro_batches, {})
    return float(ready.meter.read()["train/loss"])


def _order(recipe: Recipe, rows: FirstRows, global_batch_size: int) -> Order:
    capacity = recipe.data.max_length if recipe.data.packing else None
    return Order(rows.lengths, (Source(0, len(rows)),), recipe.seed, global_batch_size, capacity)
