"""Validation errors in plain words: what a key must be, told from its type, and what was given instead."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from launcher.recipe.yaml_source import Node
from launcher.section import Expect, Section
from launcher.suggest import did_you_mean

Step = str | int
Path = tuple[Step, ...]


def errors_by_path(error: ValidationError, tree: Node) -> Iterator[tuple[Path, ErrorDetails]]:
    """The first error of every place. Pydantic adds the branch of a union to a path; only steps that exist are kept.

    Of a value that has the form of one branch, what is wrong inside is the error, and not that it is none of the others.
    """
    found: dict[Path, ErrorDetails] = {}
    for details in error.errors(include_url=False, include_context=False):
        path = _existing(details["loc"], tree)
        if details["type"] == "missing" and isinstance(details["loc"][-1], int):
            details = {**details, "type": "too_short"}  # the list is there, and is what is wrong
        elif details["type"] == "missing":
            path = (*path, details["loc"][-1])
        found.setdefault(path, details)
    outer = {path[:length] for path in found for length in range(len(path))}
    yield from ((path, details) for path, details in found.items() if path not in outer)


def _existing(location: Path, node: Node) -> Path:
    if not location:
        return ()
    step, value = location[0], node.value
    inside = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
    return (step, *_existing(location[1:], value[step])) if inside else _existing(location[1:], node)


def find(tree: Node, path: Path) -> Node:
    for step in path:
        tree = tree.value[step]
    return tree


# --- types ----------------------------------------------------------------------------------------------------------


def annotation_at(model: type[Section], path: Path, tree: Node | None = None) -> Any:
    """The type that the value at `path` must have, constraints included; `Any` inside a free mapping.

    `tree` tells which kind an item is, where its `name` says it.
    """
    here: Any = model
    for number, step in enumerate(path):
        name = _find_name(tree, path[:number]) if tree is not None else None
        here = named(here).get(name, here) if name is not None else here
        here = _inside(here, step)
    return here


def of_a_mapping(model: type[Section], path: Path) -> type[Section] | None:
    """The section at `path`, where it is an item of a mapping, whose key is no name of ours."""
    if not path or get_origin(branches(annotation_at(model, path[:-1]))[0]) is not dict:
        return None
    kind = annotation_at(model, path)
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def named(annotation: Any) -> dict[str, type[Section]]:
    """`name` -> section, where a value is one of several sections that their `name` tells apart; else empty."""
    kinds = [branch for branch in branches(annotation) if isinstance(branch, type) and issubclass(branch, Section)]
    if len(kinds) < 2:
        return {}
    return {get_args(kind.model_fields["name"].annotation)[0]: kind for kind in kinds}


def _find_name(tree: Node, path: Path) -> str | None:
    value = find(tree, path).value
    node = value.get("name") if isinstance(value, dict) else None
    return node.value if node is not None and isinstance(node.value, str) else None


def _inside(annotation: Any, step: Step) -> Any:
    for branch in branches(annotation):
        if isinstance(branch, type) and issubclass(branch, Section):
            return _of_field(branch.model_fields[step]) if step in branch.model_fields else Any
        if get_origin(branch) is tuple and isinstance(step, int):
            items = get_args(branch)
            return items[0] if items[-1] is Ellipsis else items[step] if step < len(items) else Any
        if get_origin(branch) is dict:
            return get_args(branch)[1]
    return Any


def _of_field(field: FieldInfo) -> Any:
    annotation: Any = field.annotation
    return Annotated[annotation, *field.metadata] if field.metadata else annotation


def branches(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, without their constraints; a single type is its own only branch."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(branch for item in get_args(annotation) for branch in branches(item))
    return (annotation,)


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def expected(annotation: Any, constraints: tuple[Any, ...] = ()) -> str:
    """What a value of this type is called in a message: `a whole number of at least 1, or null`."""
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        constraints = (*_flat(more), *constraints)
    words = next((item.words for item in constraints if isinstance(item, Expect)), None)
    if words:
        return words
    if get_origin(annotation) in (Union, types.UnionType):
        texts = dict.fromkeys(expected(item, constraints) for item in get_args(annotation))
        return ", or ".join(sorted(texts, key=lambda text: text == "null"))
    return _expected_one(annotation, constraints)


def _flat(metadata: list[Any]) -> list[Any]:
    return [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _expected_one(annotation: Any, constraints: tuple[Any, ...]) -> str:
    origin, items = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _choices(items)
    if origin is tuple and items[-1] is Ellipsis:
        return f"a list, each item {expected(items[0])}"
    if origin is tuple:
        return f"a list of {len(items)}, each {expected(items[0])}"
    if origin is dict or isinstance(annotation, type) and issubclass(annotation, Section):
        return "a mapping of keys to values"
    return _NAMES.get(annotation, str(annotation)) + _range(constraints)


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    None: "null",
    Any: "a value",
}


def _choices(items: tuple[Any, ...]) -> str:
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"


def _range(constraints: tuple[Any, ...]) -> str:
    texts = []
    for item in constraints:
        match item:
            case Ge():
                texts.append(f"of at least {item.ge}")
            case Gt():
                texts.append(f"above {item.gt}")
            case Le():
                texts.append(f"at most {item.le}")
            case Lt():
                texts.append(f"below {item.lt}")
            case MinLen():
                texts.append("that is not empty")
    return "".join(f" {text}" for text in texts[:1]) + "".join(f" and {text}" for text in texts[1:])


# --- values ---------------------------------------------------------------------------------------------------------


def wrong_value(annotation: Any, node: Node) -> str:
    """`must be a whole number of at least 1, not "ten"; remove the quotes`."""
    return f"must be {expected(annotation)}, not {given(node)}{_fix(annotation, node)}"


def given(node: Node) -> str:
    value = node.value
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null (no value)", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _fix(annotation: Any, node: Node) -> str:
    kinds, value = branches(annotation), node.value
    if isinstance(value, str) and (known := named(annotation)):
        return f"; write {{name: {value}}}" if value in known else f"; {{name: ...}} is one of {', '.join(known)}"
    if isinstance(value, list) and any("values" in getattr(kind, "model_fields", ()) for kind in kinds):
        return "; write {values: [...]}"
    choices = [item for kind in kinds if get_origin(kind) is Literal for item in get_args(kind)]
    if isinstance(value, str):
        return _fix_text(kinds, choices, node)
    if isinstance(value, dict) and any(get_origin(kind) is tuple for kind in kinds):
        return "; put `- ` before its first line, or [ ] around it"
    if value is None and any(get_origin(kind) is tuple for kind in kinds):
        return "; write []"
    if isinstance(value, list | dict) or value is None:
        return ""
    if str in kinds or str(value) in choices:
        return f'; put it in quotes: "{value}"'
    if int in kinds and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    return _fix_list(kinds, value)


def _fix_text(kinds: tuple[Any, ...], choices: list[Any], node: Node) -> str:
    if bool in kinds and node.value.lower() in _YES_NO:
        return f"; write {'true' if _YES_NO[node.value.lower()] else 'false'}"
    if (int in kinds or float in kinds) and _is_number(node.value):
        return "; remove the quotes" if node.quoted else f"; write {node.value.replace('_', '')}"
    if type(None) in kinds and node.value.lower() in ("none", "null"):
        return "; write null"
    return did_you_mean(node.value, map(str, choices)) or _fix_list(kinds, node.value)


def _fix_list(kinds: tuple[Any, ...], value: Any) -> str:
    lists = [kind for kind in kinds if get_origin(kind) is tuple]
    item = f"{{name: {value}}}" if any(value in named(get_args(kind)[0]) for kind in lists) else value
    return f"; write [{item}]" if lists else ""


_YES_NO = {"yes": True, "on": True, "true": True, "y": True, "no": False, "off": False, "false": False, "n": False}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
