"""The values of a search space: keys must be keys, and values ones that they take, before anything is run."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from launcher.recipe import local_files
from launcher.recipe.layers import assigned
from launcher.recipe.searching import REFUSED
from launcher.recipe.validate import validated
from launcher.recipe.yaml_source import DEFAULT, Node, Problem
from launcher.schema import Sections

R = TypeVar("R", bound=Sections)
NOT_OF_A_TRIAL = ("output_dir", "sweep")  # the sweep has them, its trials have not


def resolved(tree: Node, missing: list[Problem]) -> Node:
    """The tree, in which paths among the values to try are absolute where they exist, as those of the recipe itself."""
    space = _space(tree)
    if space is None:
        return tree
    made = {key: _resolved(key, node, missing) for key, node in space.value.items()}
    sweep = tree.value["sweep"]
    sweep = replace(sweep, value={**sweep.value, "space": replace(space, value=made)})
    return replace(tree, value={**tree.value, "sweep": sweep})


def _space(tree: Node) -> Node | None:
    sweep = tree.value.get("sweep")
    space = sweep.value.get("space") if sweep is not None and isinstance(sweep.value, dict) else None
    return space if space is not None and isinstance(space.value, dict) else None


def _resolved(key: str, node: Node, missing: list[Problem]) -> Node:
    listed = node.value.get("values") if isinstance(node.value, dict) else None
    if listed is None or not isinstance(listed.value, list):
        return node
    items = [local_files.resolve(item, missing, key) for item in listed.value]
    return replace(node, value={**node.value, "values": replace(listed, value=items)})


def problems(recipe: R, tree: Node) -> Iterator[Problem]:
    """For each key of the space the first of its values with which the recipe would be refused, and why.

    Each value is looked at with all else as the recipe has it; of a range its two ends. What is wrong with the recipe itself,
    or with a dimension (that is not in `recipe` then), is said elsewhere.
    """
    space, sweep = _space(tree), tree.value.get("sweep")
    if sweep is not None and sweep.value is not None and not (space and space.value):
        text = "names no key to try; write for example optimizer.learning_rate: {values: [1.0e-4, 3.0e-4]}"
        yield Problem((space or sweep).key_place, f"sweep.space: {text}", "sweep.space")
    if space is None or recipe.sweep is None:
        return
    base, anyway = without(tree, NOT_OF_A_TRIAL), list[Problem]()
    validated(type(recipe), base, anyway)
    for key in recipe.sweep.space:
        if key not in REFUSED and key.partition(".")[0] not in REFUSED:
            node = space.value[key]
            found = (one for value in _tried(node) for one in _problems(type(recipe), base, key, node, value, anyway))
            yield from itertools.islice(found, 1)


def without(tree: Node, keys: tuple[str, ...]) -> Node:
    return replace(tree, value={key: node for key, node in tree.value.items() if key not in keys})


def _tried(node: Node) -> list[Node]:
    listed = node.value.get("values")
    if listed is not None and listed.value is not None:
        return list(listed.value)
    return [node.value[end] for end in ("low", "high")]


def _problems(
    model: type[R], base: Node, key: str, node: Node, value: Node, anyway: list[Problem]
) -> Iterator[Problem]:
    found: list[Problem] = []
    try:
        tree = assigned(base, key, replace(value, key_place=node.key_place))
    except ValueError as error:
        yield Problem(node.key_place, f"sweep.space: {error}", f"sweep.space.{key}")
        return
    validated(model, tree, found)
    for problem in found:
        if problem in anyway:
            continue
        own = problem.key == key or problem.key.startswith(f"{key}.")
        place = problem.place if own and problem.place != DEFAULT else value.place
        said = problem.text if own else f"{key}: {json.dumps(value.plain())} does not go with the rest: {problem.text}"
        yield Problem(place, f"sweep.space: {said}", f"sweep.space.{key}")
