"""What a run must share with the checkpoint that it goes on from. Pure: no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.errors import RecipeError
from launcher.plan import Plan
from launcher.recipe import Recipe

# What follows from another value of any key of this kind.
CONSEQUENCES = {
    "order": "the order of rows would change",
    "function": "what was trained would compute something else",
    "optimizer": "its states would be of another kind",
}
HOW_IT_LEARNS = ("lora_dropout", "loraplus_lr_ratio", "loraplus_lr_embedding")  # of an adapter; may change on the way
Facts = dict[str, dict[str, Any]]


def facts(
    recipe: Recipe,
    plan: Plan,
    data: str,
    base: str,
    labels: Sequence[str] = (),
    stages: Sequence[Mapping[str, Any]] = (),
) -> Facts:
    """Kind -> key -> value, as JSON gives it back. `data` and `base`: digests of the rows and of the base's weights.

    Of several `stages`, each says itself what it is trained on, and with which optimizer.
    """
    options = recipe.adapter.model_dump(mode="json")
    return {
        "order": {
            **({f"stages.{number}": dict(stage) for number, stage in enumerate(stages)} or {"data": data}),
            "global_batch_size": plan.global_batch_size,
            "seed": plan.seed,
            "data.packing": plan.packing,
            "data.train weights": [source.weight for source in recipe.data.train],
            **({"data.sampling": recipe.data.sampling} if recipe.data.sampling != "natural" else {}),
        },
        "function": {
            "method": plan.method,
            "quantization": plan.quantization,
            **({"base model": base} if plan.method != "full" else {}),
            **({"labels": list(labels)} if labels else {}),
            **{f"adapter.{name}": value for name, value in options.items() if name not in HOW_IT_LEARNS},
        },
        "optimizer": {
            "optimizer.name": recipe.optimizer.name,
            **({"regularization.ema": plan.ema} if plan.ema is not None else {}),
        },
    }


def insist(saved: Facts, now: Facts, where: str) -> None:
    """Raises a RecipeError that names all that is not as it was."""
    problems = []
    for kind, consequence in CONSEQUENCES.items():
        if other := _differences(saved[kind], now[kind]):
            problems.append(f"{', '.join(other)}, so {consequence}")
    if problems:
        raise RecipeError(
            "; ".join(problems),
            where=where,
            fix="resume with what the run was started with, or start a new run from its export",
        )


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = [*saved, *(key for key in now if key not in saved)]
    return [
        f"{key} was {saved.get(key)} when this run was saved and is {now.get(key)} now"
        for key in keys
        if saved.get(key) != now.get(key)
    ]
