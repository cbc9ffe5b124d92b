"""How the ranks share the work: each holds all of it (none, ddp), or DeepSpeed shards it (zero1, zero2, zero3)."""

from launcher import zero_config
from launcher.errors import RecipeError
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.recipe import Recipe
from launcher.world import World


def derive(notes: Notes, recipe: Recipe, world: World) -> None:
    """`strategy`, as the recipe has it or chosen for this world."""
    strategy = recipe.distributed.strategy
    if strategy == "auto":
        notes.put("strategy", "ddp" if world.size > 1 else "none", "auto: ddp for more than one process, else none")
    elif strategy == "none" and world.size > 1:
        raise RecipeError(
            f"distributed.strategy none trains one process, but there are {world.size}",
            where=recipe.origin("distributed.strategy"),
            fix="use auto or ddp",
        )
    else:
        notes.take("strategy", "distributed.strategy", strategy)


def configure(notes: Notes, recipe: Recipe, facts: ModelFacts | None) -> None:
    """DeepSpeed's configuration, or None where it is not used."""
    section, strategy = recipe.distributed, notes["strategy"]
    if strategy not in zero_config.STAGES:
        notes.put("deepspeed", None, "only for zero1, zero2 and zero3")
        notes.put("zero_leaf_modules", None, "only for zero3")
        return
    trains_bf16 = recipe.method == "full" and notes["model_dtype"] == "bf16"
    shape = facts and zero_config.Shape(facts.parameters, facts.trainable, facts.num_layers, facts.hidden_size)
    made = zero_config.make(
        recipe, strategy, notes["world_size"], notes["precision"], trains_bf16, shape or zero_config.Shape()
    )
    origin = "computed: from the recipe"
    if section.deepspeed_config is not None:
        origin += f", and distributed.deepspeed_config ({recipe.origin('distributed.deepspeed_config')})"
    notes.put("deepspeed", made, origin)
    notes.take("zero_leaf_modules", "distributed.zero_leaf_modules", section.zero_leaf_modules)
