"""The stages of a run: for each its recipe, its plan, and the order of its rows. A recipe without stages is its own only one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from launcher import plan
from launcher.data import order
from launcher.data.balance import balanced
from launcher.data.context import Context
from launcher.data.prepare import Joined
from launcher.errors import RecipeError
from launcher.memory.cards import gib
from launcher.model_facts import ModelFacts
from launcher.plan import Plan
from launcher.recipe import Recipe
from launcher.world import World


@dataclass(frozen=True)
class Stage:
    """`order` is None where the data cannot be read."""

    name: str
    recipe: Recipe
    plan: Plan
    order: order.Order | None

    def as_fact(self, data: str) -> dict[str, Any]:
        """What a resumed run must have in common with the one that was interrupted; `data`: digest of the rows."""
        trainable, freeze = self.recipe.trainable, self.recipe.freeze
        return {
            "name": self.name,
            "trainable": trainable and list(trainable),
            "freeze": list(freeze),
            "optimizer.name": self.recipe.optimizer.name,
            "data": data,
            "first_step": self.plan.first_step,
        }


def planned(
    recipe: Recipe,
    world: World,
    facts_of: Callable[[Recipe], ModelFacts | None],
    rows_of: Callable[[Recipe], Joined | None],
    context: Context | None,
    data_note: str = "",
) -> list[Stage]:
    """All stages in order. Those that are trained on the same data go on in its order where the one before left off."""
    named = recipe.in_stages(_layers(recipe, facts_of))
    made: list[Stage] = []
    taken: dict[str, int] = {}  # steps so far on the same data
    step: int | None = 0
    for name, stage in named or [(recipe.name, recipe)]:
        rows, data = rows_of(stage), trained_on(stage)
        begun = taken.get(data, 0)
        orders = None if rows is None else _orders(stage, rows, (step or 0) - begun)
        own = plan.make(stage, world, facts_of(stage), orders, data_note, context, first_step=step)
        made.append(Stage(name, stage, own, orders and orders(own.global_batch_size)))
        step = own.last_step
        taken[data] = begun + (0 if step is None else step - (own.first_step or 0))
    return _told_of_each_other(made) if named else made


def trained_on(recipe: Recipe) -> str:
    """The same for recipes with the same training data."""
    return recipe.data.model_dump_json(include={"train"})


def at(stages: tuple[Any, ...], step: int) -> int:
    """Number of the stage that goes on from a step; what has `plan`s. The end of a stage is the beginning of the next."""
    begun = [number for number, stage in enumerate(stages) if stage.plan.first_step <= step]
    return begun[-1]


def _orders(stage: Recipe, rows: Joined, first_step: int) -> Callable[[int], order.Order]:
    """From a global batch size."""
    return partial(
        order.Order,
        rows.lengths,
        _sources(stage, rows),
        stage.seed,
        capacity=stage.data.max_length if stage.data.packing else None,
        first_step=first_step,
    )


def _sources(stage: Recipe, rows: Joined) -> tuple[order.Source, ...]:
    """Which rows an epoch draws, and how often."""
    weighted = zip(pairwise(rows.starts), stage.data.train, strict=True)
    sources = tuple(order.Source(np.arange(*bounds), source.weight) for bounds, source in weighted)
    if stage.data.sampling != "balanced":
        return sources
    if any(rows.all("several")):
        raise RecipeError(
            "data.sampling: rows have lists of labels, and to even out one would tilt another",
            where=stage.origin("data.sampling"),
            fix="take it out",
        )
    return balanced(sources, [labels[0] for labels in rows.all("labels")])


def _layers(recipe: Recipe, facts_of: Callable[[Recipe], ModelFacts | None]) -> int:
    """How many layers a shorthand can count on; the model's shapes are looked at for it where there is one."""
    if recipe.gradual_unfreezing is None:
        return 0
    facts = facts_of(recipe)
    if facts is None or not facts.layers:
        raise RecipeError(
            "gradual_unfreezing: the layers of this model are not known",
            where=recipe.origin("gradual_unfreezing"),
            fix="write stages, with patterns of parameters' names under trainable",
        )
    return facts.layers


def _told_of_each_other(made: list[Stage]) -> list[Stage]:
    """With the steps of the whole run, and a line for each stage, in every plan."""
    whole = {"stages": tuple(_line(stage) for stage in made), "total_steps": made[-1].plan.total_steps}
    why = {"stages": "the recipe", "stage": "whose values these are", "total_steps": "computed: those of all stages"}

    def told(stage: Stage) -> Stage:
        own = {key: origin.replace("of total_steps", "of its steps") for key, origin in stage.plan.origins.items()}
        return replace(stage, plan=replace(stage.plan, **whole, stage=stage.name, origins=own | why))

    return [told(stage) for stage in made]


def _line(stage: Stage) -> str:
    """`head: steps 1-40, 1,538 of 4,386,178 parameters, learning rate 0.001 linear, 0.1 GiB`."""
    own = stage.plan
    steps = "steps unknown" if own.last_step is None else f"steps {(own.first_step or 0) + 1:,}-{own.last_step:,}"
    trained = (
        "" if own.trainable_parameters is None else f", {own.trainable_parameters:,} of {own.parameters:,} parameters"
    )
    memory = "" if own.total_bytes_per_rank is None else f", {gib(own.total_bytes_per_rank)} GiB"
    return f"{stage.name}: {steps}{trained}, learning rate {own.learning_rate:g} {own.schedule}{memory}"
