"""The arithmetic of the batch: two of its three numbers give the third for a world."""

from launcher.errors import RecipeError
from launcher.notes import Notes
from launcher.recipe import Recipe
from launcher.world import World


def derive(notes: Notes, recipe: Recipe, world: World) -> None:
    """Two of the three batch numbers give the third for this world; what is not given falls back to a small default."""
    names = ("global_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps")
    known = {name: value for name in names if (value := getattr(recipe.training, name)) is not None}
    for name, value in known.items():
        notes.take(name, f"training.{name}", value)
    defaults = ([] if known else [("global_batch_size", 8)]) + [(name, 1) for name in names[1:]]
    for name, value in defaults:
        if len(known) < 2 and name not in known:
            known[name] = notes.put(name, value, "default")
    if "global_batch_size" in known:
        _divide(notes, known, world)
    else:
        product = known["per_device_train_batch_size"] * known["gradient_accumulation_steps"] * world.size
        notes.put("global_batch_size", product, "computed: per device x accumulation x world size")
    micro_batches = notes["gradient_accumulation_steps"] * world.size
    notes.put("micro_batches_per_step", micro_batches, "computed: accumulation x world size")
    given = recipe.evaluation.per_device_eval_batch_size
    if given is None:
        notes.put("per_device_eval_batch_size", notes["per_device_train_batch_size"], "as per_device_train_batch_size")
    else:
        notes.take("per_device_eval_batch_size", "evaluation.per_device_eval_batch_size", given)


def _divide(notes: Notes, known: dict[str, int], world: World) -> None:
    """The number that is missing beside global_batch_size; an inexact division lists the world sizes that would fit."""
    whole = known["global_batch_size"]
    ((other_name, other),) = ((name, value) for name, value in known.items() if name != "global_batch_size")
    quotient, rest = divmod(whole, other * world.size)
    if rest:
        fitting = [str(size) for size in range(1, whole + 1) if whole % (other * size) == 0]
        raise RecipeError(
            f"training.global_batch_size {whole} is not a multiple of {other_name} {other} x {world.size} processes",
            where=notes.recipe.origin("training.global_batch_size"),
            fix=f"world sizes that fit: {', '.join(fitting)}" if fitting else f"{other_name} must divide it",
        )
    missing = {"per_device_train_batch_size", "gradient_accumulation_steps"} - {other_name}
    notes.put(missing.pop(), quotient, f"computed: {whole} / ({other} x {world.size} processes)")
