"""Writes models.json: parameters and memory of every model in facts.yaml, from its shapes. `python -m launcher.known_models.count`

Memory is what `launcher plan` says for the recipe of the model's kind on one GPU. Run it again when that reckons otherwise.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

from launcher.known_models import COUNTED, KINDS, METHODS, Kind, facts, shape

DECODER_TOKENS = 2048
HELD = ("weight", "gradient", "optimizer", "overhead")


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the shapes are those of this folder, whatever the hub has by now
    from launcher import log

    log.set_up(1)
    counted = []
    for name in facts():
        counted.append(entry(name))
        print(name, f"{counted[-1]['parameters']:,}", flush=True)
    lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in counted)
    COUNTED.write_text(f'{{"written_by": "python -m launcher.known_models.count", "models": [\n{lines}\n]}}\n')


def entry(name: str) -> dict[str, Any]:
    """One of models.json."""
    known = facts()[name]
    kind = KINDS[known["kind"]]
    model = on_meta(name)
    plans = {method: found for method in METHODS if (found := planned(name, method)) is not None}
    whole = all(plan.total_bytes_per_rank is not None for plan in plans.values())
    return {
        "name": name,
        "kind": known["kind"],
        "licence": known["licence"],
        "parameters": parameters(model),
        "context": known.get("context") or _context(model),
        "tasks": [kind.task, *_other_tasks(model.config, kind)],
        "memory_bytes": {method: plan.total_bytes_per_rank if whole else held(plan) for method, plan in plans.items()},
        "with_activations": whole,
    }


def on_meta(name: str) -> Any:
    """The model for the task of its kind, without storage, with as many labels as its configuration has."""
    import torch
    import transformers

    from launcher import model, parts

    found = shape(name)
    assert found is not None
    config = model.config_from(found)
    auto_class = getattr(transformers, parts.load("tasks", KINDS[facts()[name]["kind"]].task).TRAITS.auto_class)
    with torch.device("meta"):
        made = auto_class.from_config(config)
        model.give_own_head(made)
    return made


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def held(plan: Any) -> int:
    """Bytes that do not depend on the batch."""
    return sum(getattr(plan, f"{part}_bytes_per_rank") for part in HELD)


def planned(name: str, method: str) -> Any:
    """The plan of the kind's recipe with this model and method, on one GPU; None where the launcher refuses the method."""
    from launcher import model, parts, plan, recipe, shipped
    from launcher.errors import RecipeError
    from launcher.world import World

    kind = KINDS[facts()[name]["kind"]]
    words = [f"model.name_or_path={name}", f"method={method}", *kind.changes, *_rows_that_fit(name)]
    loaded = recipe.load(shipped.folder("recipes") / f"{kind.recipe}.yaml", words)
    try:
        shapes = model.facts(loaded, parts.load_whole("tasks", loaded.task), parts.load("adapters", method))
        return plan.make(loaded, World(1, 1, device="cuda", bf16=True), shapes, None)
    except RecipeError as error:
        print(f"  {name}, {method}: {error}")
        return None


def _rows_that_fit(name: str) -> Iterator[str]:
    """A decoder may take less than `DECODER_TOKENS`."""
    found = shape(name) or {}
    if facts()[name]["kind"] == "decoder" and found.get("model_type") == "gpt2":
        yield f"data.max_length={min(DECODER_TOKENS, found.get('n_positions', 1024))}"


def _context(model: Any) -> int | str | None:
    """Tokens, or the longer side of a picture."""
    from launcher.model import positions

    size = getattr(model.config, "image_size", None)
    if size is not None:
        return f"{size if isinstance(size, int) else max(size)} px"
    return positions(model)


def _other_tasks(config: Any, kind: Kind) -> list[str]:
    """Those of the kind that transformers has this model for."""
    import transformers

    from launcher import parts

    classes = {task: getattr(transformers, parts.load("tasks", task).TRAITS.auto_class) for task in kind.others}
    return [task for task, auto_class in classes.items() if type(config) in auto_class._model_mapping]


if __name__ == "__main__":
    main()
