"""The stages of a recipe: each is the recipe itself, with the keys that the stage gives in place of its own."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from launcher.recipe.yaml_source import DEFAULT, Node, merge
from launcher.schema import Sections, Stage, StageData, StageTraining
from launcher.section import Section
from launcher.suggest import STAGES

# Its sections that have fewer keys than the recipe's.
OF_A_STAGE: dict[str, type[Section]] = {"training": StageTraining, "data": StageData}


def trees(tree: Node) -> list[tuple[str, Node]]:
    """(name, recipe) of each item of `stages`, places kept."""
    listed = tree.value.get("stages")
    return [(_name(node, number), changed(tree, node)) for number, node in enumerate(listed.value, 1)] if listed else []


def _name(stage: Node, number: int) -> str:
    given = stage.value.get("name")
    return str(number) if given is None or given.value is None else given.value


def shorthand(recipe: Sections, layers: int) -> list[tuple[str, dict[str, Any]]]:
    """(name, changed keys) of the stages that a shorthand stands for, in a model with so many layers; none without one."""
    if (probe := recipe.linear_probe_then_finetune) is not None:
        return [("linear probe", {"trainable": ["head"], **_length(probe, probe.learning_rate)}), ("all", {})]
    if (plan := recipe.gradual_unfreezing) is None:
        return []
    above = range(0, layers, plan.layers_per_stage)
    named = [("head", ["head"])] + [(f"layers[{-n}:]", ["head", f"layers[{-n}:]"]) for n in above if n]
    return [(name, {"trainable": words, **_length(plan, None)}) for name, words in named] + [("all", {})]


def node_of(value: Any) -> Node:
    """A tree of values that no file holds."""
    if isinstance(value, Mapping):
        value = {key: node_of(item) for key, item in value.items()}
    elif isinstance(value, list):
        value = [node_of(item) for item in value]
    return Node(value, DEFAULT, DEFAULT)


def changed(tree: Node, stage: Node) -> Node:
    """`stage` over `tree`. One that names another optimizer has all of its options, since they are not those of the first."""
    whole = {key: node for key, node in tree.value.items() if key not in STAGES}
    own = dict(_given(stage))
    if (
        "optimizer" in own
        and "name" in own["optimizer"].value
        and _named(whole) != own["optimizer"].value["name"].value
    ):
        whole.pop("optimizer", None)
    return merge(replace(tree, value=whole), replace(stage, value=own))


def _named(sections: Mapping[str, Node]) -> str:
    section = sections.get("optimizer")
    name = section.value.get("name") if section and section.value else None
    return name.value if name else "adamw"


def _given(stage: Node) -> Iterator[tuple[str, Node]]:
    """Without its name, what is null (a resolved recipe spells that out), and what no stage has, which is said elsewhere."""
    for key, node in stage.value.items():
        if isinstance(node.value, dict) and (section := OF_A_STAGE.get(key)) is not None:
            known = {name: item for name, item in node.value.items() if name in section.model_fields}
            node = replace(node, value={name: item for name, item in known.items() if item.value is not None})
        if key in Stage.model_fields and key != "name" and node.value not in (None, {}):
            yield key, node


def _length(section: StageTraining, learning_rate: float | None) -> dict[str, Any]:
    """An epoch, where the shorthand does not say."""
    steps, epochs = section.max_steps, section.num_train_epochs
    length = {"max_steps": steps} if steps is not None else {"num_train_epochs": epochs or 1.0}
    return {"training": length, **({"optimizer": {"learning_rate": learning_rate}} if learning_rate else {})}
