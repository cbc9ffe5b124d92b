"""The ways in which one step is computed: each is a change of the user's recipe, and a cut of the batch. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

from launcher.parts import load
from launcher.recipe import Recipe

RECIPE = "the recipe"
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
ALONE = {
    "packed": {"data.packing": "true"},
    "fused loss": {"loss.implementation": "fused"},
    "activation checkpointing": {"training.gradient_checkpointing": "true"},
}
Changes = Mapping[str, str]  # key of the recipe -> value, as on the command line


@dataclass(frozen=True)
class Variant:
    """`cut`: the number of micro-batches over all processes; None cuts as the recipe does."""

    name: str
    processes: int = 1
    cut: int | None = 1
    changes: Changes = field(default_factory=dict)


def reference(recipe: Recipe) -> Variant:
    """One process, one micro-batch, padded, plain loss, all activations kept."""
    changes = {"distributed": "null", "data.packing": "false", "training.gradient_checkpointing": "false"}
    changes |= {"training.gradient_checkpointing_interval": "1", "training.activation_offloading": "false"}
    if "implementation" in type(recipe.loss).model_fields:
        changes["loss.implementation"] = "torch"
    return Variant("reference", changes=changes)


def in_fp32(recipe: Recipe) -> Changes:
    """What makes a recipe compute in fp32."""
    changes = {"training.precision": "fp32", "model.dtype": "auto"}
    if flash(recipe):
        changes["model.attn_implementation"] = "null"
    if recipe.quantization is not None:
        changes["quantization.compute_dtype"] = "auto"
    return changes


def flash(recipe: Recipe) -> str | None:
    """The recipe's attention, if it knows 16 bits only."""
    attention = recipe.model.attn_implementation
    return attention if "flash" in str(attention) else None


def listed(recipe: Recipe, rows: int, processes: int, pairs: bool) -> list[Variant]:
    """All that is compared with the reference: each change alone, with `pairs` two at a time, last the recipe as it stands."""
    plain, alone = reference(recipe).changes, _alone(recipe)
    found = [Variant(f"{cut} micro-batches", 1, cut, plain) for cut in cuts(rows)]
    found += [Variant(name, 1, 1, {**plain, **changes}) for name, changes in alone.items()]
    if pairs:
        found += [Variant(f"{name}, 2 micro-batches", 1, 2, {**plain, **alone[name]}) for name in alone]
        found += [Variant(f"{a}, {b}", 1, 1, {**plain, **alone[a], **alone[b]}) for a, b in combinations(alone, 2)]
    if processes > 1:
        found += _shared(plain, alone if pairs else {}, processes)
    return [*found, Variant(RECIPE, processes, None)]


def _alone(recipe: Recipe) -> Mapping[str, Changes]:
    """The changes that the recipe's task knows."""
    has_fused = "implementation" in type(recipe.loss).model_fields and not getattr(recipe.loss, "r_drop_alpha", 0.0)
    known = {"packed": load("tasks", recipe.task).TRAITS.packs, "fused loss": has_fused}
    return {name: changes for name, changes in ALONE.items() if known.get(name, True)}


def _shared(plain: Changes, alone: Mapping[str, Changes], processes: int) -> list[Variant]:
    """By several processes. The last step of an epoch may leave all but one of them without a row."""
    changes = {strategy: {**plain, "distributed.strategy": strategy} for strategy in STRATEGIES}
    found = [Variant("ddp", processes, processes, changes["ddp"])]
    found += [Variant("ddp, rows in one process only", processes, 1, changes["ddp"])]
    found += [Variant(f"{name}, accumulating", processes, 2 * processes, changes[name]) for name in STRATEGIES]
    found += [
        Variant(f"{strategy}, {name}", processes, 2 * processes, {**changes[strategy], **more})
        for strategy in STRATEGIES
        for name, more in alone.items()
    ]
    return found


def cuts(rows: int) -> list[int]:
    """The divisors of the number of rows; and 3 where that leaves a last micro-batch that is shorter than the others."""
    return [cut for cut in range(2, rows + 1) if rows % cut == 0 or (cut == 3 and rows > 4)]
