"""How the ranks share the work: each holds all of it (none, ddp), or DeepSpeed shards it (zero1, zero2, zero3)."""

from collections.abc import Mapping
from typing import Any

from launcher import weight_storage, zero_config
from launcher.errors import RecipeError
from launcher.memory import need
from launcher.memory.cards import gib
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.recipe import Recipe
from launcher.support import refusals
from launcher.world import World

SHARE_TO_USE = 0.95  # of the card's memory, since activations are an estimate
# Each holds less than the one before it, and sends more or waits longer.
BY_SHARDING = ("ddp", "zero1", "zero2", "zero3")


def derive(notes: Notes, recipe: Recipe, world: World, facts: ModelFacts | None) -> None:
    """`strategy` as the recipe has it or chosen for this world, and DeepSpeed's configuration for it."""
    strategy = recipe.distributed.strategy
    if strategy == "auto":
        notes.put("strategy", *_choose(notes, recipe, world, facts))
    elif strategy == "none" and world.size > 1:
        raise RecipeError(
            f"distributed.strategy none trains one process, but there are {world.size}",
            where=recipe.origin("distributed.strategy"),
            fix="use auto or ddp",
        )
    else:
        notes.take("strategy", "distributed.strategy", strategy)
    _configure(notes, recipe, facts)
    if _trains_bf16(notes):
        how = "through fp32 copies" if notes["deepspeed"] else "so an update below 2^-8 of its weight is rounded away"
        notes.origins["model_dtype"] += f"; the weights are trained in bf16, {how}"


def _choose(notes: Notes, recipe: Recipe, world: World, facts: ModelFacts | None) -> tuple[str, str]:
    """The least sharding that fits the card, and why."""
    if world.size == 1:
        return "none", "auto: one process"
    if world.memory_bytes is None or facts is None:
        return "ddp", "auto: ddp for more than one process, since " + (
            "the memory of the device is not known" if world.memory_bytes is None else "the model's shape is not known"
        )
    if not world.has_deepspeed:
        return "ddp", "auto: ddp, since DeepSpeed, which zero1 to zero3 need, is not installed"
    needed: dict[str, int] = {}
    for strategy in BY_SHARDING:
        chosen = {"strategy": strategy, "precision": notes["precision"]}
        if any(refusals(weight_storage.combination(recipe, facts.quantized, **chosen))):
            continue
        made = need.of(notes, recipe, facts, strategy, configuration(notes, recipe, facts, strategy))
        if made is None or made.total is None:
            return "ddp", "auto: ddp for more than one process, since the memory that this model needs is not known"
        needed[strategy] = made.total
        if made.total <= SHARE_TO_USE * world.memory_bytes:
            break
    return _told(needed, world.memory_bytes)


def _told(needed: Mapping[str, int], memory_bytes: int) -> tuple[str, str]:
    """`auto: ddp needs 118 GiB, zero2 61, the card has 79.1`; the last that is named is the one that fits, if any does."""
    (first, *others), last = needed.items(), list(needed)[-1]
    said = ", ".join([f"{first[0]} needs {gib(first[1])} GiB", *(f"{name} {gib(size)}" for name, size in others)])
    card = f"the card has {gib(memory_bytes)}, of which {SHARE_TO_USE:.0%} are reckoned with"
    if needed[last] <= SHARE_TO_USE * memory_bytes:
        return last, f"auto: {said}; {card}"
    least = min(needed, key=lambda name: needed[name])
    return least, f"auto: none fits, {least} needs least: {said}; {card}"


def configuration(notes: Notes, recipe: Recipe, facts: ModelFacts | None, strategy: str) -> dict[str, Any] | None:
    """DeepSpeed's configuration for a strategy, or None where it is not used."""
    if strategy not in zero_config.STAGES:
        return None
    shape = facts and zero_config.Shape(facts.parameters, facts.trainable, facts.num_layers, facts.hidden_size)
    world_size, precision = notes["world_size"], notes["precision"]
    return zero_config.make(recipe, strategy, world_size, precision, _trains_bf16(notes), shape or zero_config.Shape())


def _trains_bf16(notes: Notes) -> bool:
    """What an adapter trains, copies of modules too, is fp32."""
    return bool(notes["method"] == "full" and notes["model_dtype"] == "bf16")


def _configure(notes: Notes, recipe: Recipe, facts: ModelFacts | None) -> None:
    section = recipe.distributed
    _refuse_leaf_modules(recipe, facts)
    made = configuration(notes, recipe, facts, notes["strategy"])
    if made is None:
        notes.put("deepspeed", None, "only for zero1, zero2 and zero3")
        notes.put("zero_leaf_modules", None, "only for zero3")
        return
    origin = "computed: from the recipe"
    if section.deepspeed_config is not None:
        origin += f", and distributed.deepspeed_config ({recipe.origin('distributed.deepspeed_config')})"
    notes.put("deepspeed", made, origin)
    notes.take("zero_leaf_modules", "distributed.zero_leaf_modules", section.zero_leaf_modules)


def _refuse_leaf_modules(recipe: Recipe, facts: ModelFacts | None) -> None:
    """Classes that the model does not have; the engine sees those of a model whose configuration cannot be read here."""
    if facts is None:
        return
    if missing := set(recipe.distributed.zero_leaf_modules or ()) - facts.module_classes:
        raise RecipeError(
            f"distributed.zero_leaf_modules: {', '.join(sorted(missing))} is no class of a module of this model",
            where=recipe.origin("distributed.zero_leaf_modules"),
            fix=f"it has {', '.join(sorted(facts.module_classes))}",
        )
