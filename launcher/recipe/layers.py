"""The layers of a recipe, in order: what it extends, the file itself, `key.path=value` from the command line."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.recipe.yaml_source import Node, Place, Problem, merge, read_file, read_text
from launcher.suggest import did_you_mean


def read(path: str | Path, overrides: Sequence[str], problems: list[Problem]) -> Node | None:
    """All layers merged into one tree whose places still point to where each value was written."""
    tree = _with_bases(os.fspath(path), (), problems)
    if tree is None:
        return None
    seen: dict[str, str] = {}
    for override in overrides:
        tree = _override(tree, override, seen, problems)
    return tree


def _with_bases(path: str, chain: tuple[str, ...], problems: list[Problem]) -> Node | None:
    tree = _read(path, problems)
    if tree is None or "extends" not in tree.value:
        return tree
    extends = tree.value["extends"]
    own = replace(tree, value={key: node for key, node in tree.value.items() if key != "extends"})
    if extends.value is None:
        return own
    if not isinstance(extends.value, str):
        problems.append(Problem(extends.place, "extends: must be the path of one recipe", "extends"))
        return own
    base_path = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(extends.value)))
    chain = (*chain, path)
    if os.path.realpath(base_path) in map(os.path.realpath, chain):
        problems.append(Problem(extends.place, f"extends: a circle: {' -> '.join((*chain, base_path))}", "extends"))
        return own
    if not os.path.isfile(base_path):
        text = f"extends: there is no file {base_path}{near_file(base_path)}"
        problems.append(Problem(extends.place, text, "extends"))
        return own
    base = _with_bases(base_path, chain, problems)
    return merge(base, own) if base else own


def _read(path: str, problems: list[Problem]) -> Node | None:
    if not os.path.lexists(path):
        problems.append(Problem(Place(path), f"there is no such recipe{near_file(path)}"))
        return None
    return read_file(Path(path), path, problems)


def near_file(path: str) -> str:
    """`; did you mean ...?` with the nearest name in the folder where `path` should be."""
    folder, name = os.path.split(path.rstrip("/"))
    if not os.path.isdir(folder or "."):
        return f"; there is no folder {folder} either"
    hint = did_you_mean(name, set(os.listdir(folder or ".")) - {name})
    return hint.replace("mean ", f"mean {os.path.join(folder, '')}") if hint else ""


# --- command line ---------------------------------------------------------------------------------------------------


def _override(tree: Node, override: str, seen: dict[str, str], problems: list[Problem]) -> Node:
    place = Place(f"command line {override}")
    key, equals, text = override.partition("=")
    refusal = _malformed(key, equals, text) or (f"{key}: is also given as {seen[key]}" if key in seen else "")
    if refusal:
        problems.append(Problem(place, refusal, key if key in seen else ""))
        return tree
    seen[key] = override
    value = read_text(text, str(place), problems, command_line=True)
    if value is None:
        return tree
    try:
        return assigned(tree, key, replace(value, key_place=place))
    except ValueError as error:
        problems.append(Problem(place, str(error), key))
        return tree


def assigned(tree: Node, key: str, value: Node) -> Node:
    """The tree with `value` at a dotted key, as an override has it. A ValueError says where the key leads nowhere."""
    return _assign(tree, key.split("."), value, "")


def _malformed(key: str, equals: str, text: str) -> str:
    if not equals:
        return "is not an override; write key.path=value"
    if key.startswith("-"):
        return f"is not an option of this command; to change the recipe write {key.lstrip('-')}={text}"
    if not all(key.split(".")) or key != key.strip():
        return "has no key before the `=`; write key.path=value"
    if key == "extends":
        return "extends is for recipe files only; give the recipe that extends it instead"
    return "" if text.strip() else f"has no value; write {key}=null for none"


def _assign(node: Node, steps: list[str], value: Node, above: str) -> Node:
    """`node` with `value` at `steps`, merged as if a file that extends this one had said it."""
    if not steps:
        return merge(node, value)
    step, here = steps[0], f"{above}.{steps[0]}".lstrip(".")
    if isinstance(node.value, list):
        index = _index(step, len(node.value), above)
        items = list(node.value)
        items[index] = _assign(items[index], steps[1:], value, here)
        return replace(node, value=items)
    if node.value is not None and not isinstance(node.value, dict):
        raise ValueError(f"{above}: is a single value and has no {step}")
    empty = Node(None, value.place, value.key_place)
    items_by_key = node.value or {}
    assigned = _assign(items_by_key.get(step, empty), steps[1:], value, here)
    return merge(replace(node, value=items_by_key), replace(node, value={step: assigned}))


def _index(step: str, length: int, above: str) -> int:
    if step.isdecimal() and int(step) < length:
        return int(step)
    raise ValueError(f"{above}: is a list of {length}, counted from 0; it has no item {step}")
