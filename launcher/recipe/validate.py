"""Keys and types of a recipe against its sections and the `Config` of its parts: all problems, in plain words."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from launcher import parts
from launcher.recipe import explain, rules
from launcher.recipe.explain import Path, branches
from launcher.recipe.yaml_source import DEFAULT, Node, Problem
from launcher.schema import Sections
from launcher.section import Section, freeze, join, sections_in
from launcher.suggest import did_you_mean, meant, nearest

PARTS = {
    "adapter": "adapters",
    "optimizer": "optimizers",
    "loss": "tasks",
}  # section -> folder of the part that owns it
NAMED_BY = {"adapter": "method", "optimizer": "optimizer.name", "loss": "task"}  # section -> key that names the part
DEFAULT_NAMES = {"optimizer": "adamw"}
Configs = dict[str, type[Section]]
R = TypeVar("R", bound=Sections)


def validated(model: type[R], tree: Node, problems: list[Problem]) -> R | None:
    """The recipe as a `model`, or None. Adds all problems, contradictions too: those among the keys that are right."""
    doubtful = {problem.key for problem in problems}
    configs = _configs(tree, problems, doubtful)
    taken_out: set[str] = set()
    for _ in range(3):  # what is wrong with a value can hide that its section is wrong as a whole
        recipe, wrong = _attempt(model, tree, configs)
        if recipe is not None:
            break
        known = list(_known_keys(model, configs))
        whole = tree
        for path, details in wrong:
            key_path = _path_of_key(whole, path)
            is_stand_in = details["type"] == "missing" and join(*path) in taken_out
            if not is_stand_in and not _follows(path, taken_out):
                problem, target = _problem(model, configs, whole, path, details, known)
                problems.append(problem)
                doubtful |= {join(*path), join(*key_path), target}
                taken_out.add(join(*key_path))
            tree = _without(tree, key_path, missing=details["type"] == "missing")
    else:
        return None
    for key, section in sections_in(recipe):
        section._key = key
    found = list(rules.findings(recipe, doubtful))
    problems += [Problem(_place(tree, key), f"{key}: {text}", key) for key, text in found]
    return recipe


def _follows(path: Path, taken_out: set[str]) -> bool:
    """Whether a dimension of a search is wrong for lack of what was wrong in it."""
    return path[:2] == ("sweep", "space") and any(key.startswith(f"{join(*path)}.") for key in taken_out)


def _configs(tree: Node, problems: list[Problem], doubtful: set[str]) -> Configs:
    """Section -> the class that its part validates it with. A name that no part has is a problem, and has no class."""
    configs: Configs = {}
    for section, kind in PARTS.items():
        node = _find(tree, NAMED_BY[section])
        name = DEFAULT_NAMES.get(section) if node is None else node.value
        if name in parts.names(kind):
            configs[section] = parts.load(kind, name).Config
            continue
        key = NAMED_BY[section]
        doubtful |= {section, key}
        if node is not None and isinstance(name, str):
            problems.append(Problem(node.place, f"{key}: {parts.unavailable(kind, name)}", key))
        elif node is not None and section in DEFAULT_NAMES:  # inside the section that now has no class to check it
            problems.append(Problem(node.place, f"{key}: {explain.wrong_value(str, node)}", key))
    return configs


def _attempt(model: type[R], tree: Node, configs: Configs) -> tuple[R | None, list[tuple[Path, ErrorDetails]]]:
    """The recipe, or every error with its path. The parts' sections are validated apart and passed on as objects."""
    values: dict[str, Any] = dict(freeze(tree.plain()))
    wrong: list[tuple[Path, ErrorDetails]] = []
    for section in PARTS:
        given = values.pop(section, {})
        values[section] = Section()
        if section in configs:
            try:
                values[section] = configs[section].model_validate(given)
            except ValidationError as error:
                node = tree.value[section]
                wrong += [((section, *path), details) for path, details in explain.errors_by_path(error, node)]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            values.setdefault(name, {})  # an object of its own, so that two recipes never share a read-audit
    try:
        recipe = model.model_validate(values)
    except ValidationError as error:
        return None, wrong + list(explain.errors_by_path(error, tree))
    return (None if wrong else recipe), wrong


def _known_keys(model: type[Section], configs: Configs, key: str = "") -> Iterator[str]:
    """All dotted keys that exist, the named parts' included; items of a list have no index."""
    for name, field in model.model_fields.items():
        yield join(key, name)
        inner = [configs[name]] if not key and name in configs else _section_classes(field.annotation)
        for part in inner:
            yield from _known_keys(part, configs, join(key, name))


def _section_classes(annotation: Any) -> list[type[Section]]:
    items = [
        item for branch in branches(annotation) for one in (get_args(branch) or (branch,)) for item in branches(one)
    ]
    return [item for item in items if isinstance(item, type) and issubclass(item, Section)]


# --- one problem ------------------------------------------------------------------------------------------------------


def _problem(
    model: type[Section], configs: Configs, tree: Node, path: Path, details: ErrorDetails, known: list[str]
) -> tuple[Problem, str]:
    """The problem in words, and the key that was probably meant by it."""
    key = join(*path)
    if details["type"] == "missing":
        return Problem(explain.find(tree, path[:-1]).key_place, f"{key}: is missing{_choices(key)}", key), ""
    node = explain.find(tree, path)
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _unnamed(explain.annotation_at(model, path), key, node), ""
    if details["type"] == "extra_forbidden":
        if len(choices := explain.named(explain.annotation_at(model, path[:-1]))) > 1:
            text, target = _no_option(choices, tree, path)
            return Problem(node.key_place, f"{key} {text}", key), target
        if (mapped := explain.of_a_mapping(model, path[:-1])) is not None:
            own = list(mapped.model_fields)
            hint = did_you_mean(str(path[-1]), own) or f"; it has {', '.join(own)}"
            return Problem(node.key_place, f"{key} is not an option of a {mapped.__name__.lower()}{hint}", key), ""
        text, target = _unknown_key(tree, path, known)
        return Problem(node.key_place, f"{key} {text}", key), target
    own_words = details["msg"].removeprefix("Value error, ") if details["type"] == "value_error" else ""
    if path[0] in configs:
        annotation = configs[str(path[0])] if len(path) == 1 else explain.annotation_at(configs[str(path[0])], path[1:])
    else:
        annotation = explain.annotation_at(model, path, tree)
    return Problem(node.place, f"{key}: {own_words or explain.wrong_value(annotation, node)}", key), ""


def _unnamed(annotation: Any, key: str, node: Node) -> Problem:
    """An item of a list that does not say which of several kinds it is, or one that there is not."""
    names = list(explain.named(annotation))
    given = node.value.get("name")
    if given is None:
        return Problem(node.key_place, f"{key}: has no name; write name: one of {', '.join(names)}", key)
    hint = did_you_mean(str(given.value), names)
    problem = f"must be one of {', '.join(names)}, not {explain.given(given)}{hint}"
    return Problem(given.place, f"{key}.name: {problem}", f"{key}.name")


def _no_option(choices: dict[str, type[Section]], tree: Node, path: Path) -> tuple[str, str]:
    """`is not an option of drop_length; did you mean min_chars?` and the dotted key that was meant."""
    owner, word = str(explain.find(tree, (*path[:-1], "name")).value), str(path[-1])
    own = [name for name in choices[owner].model_fields if name != "name"]
    others = [name for name, kind in choices.items() if word in kind.model_fields]
    if others:
        return f"is not an option of {owner}; it is one of {', '.join(others)}", ""
    hint = did_you_mean(word, own) or f"; it has {', '.join(own)}"
    return f"is not an option of {owner}{hint}", join(*path[:-1], nearest(word, own) or "")


def _choices(key: str) -> str:
    kind = {"task": "tasks", "method": "adapters"}.get(key)
    return f"; available: {', '.join(parts.names(kind))}" if kind else ""


def _unknown_key(tree: Node, path: Path, known: list[str]) -> tuple[str, str]:
    """`is not an option of adamw; did you mean learning_rate?` and the dotted key that was meant."""
    *above, key = path
    section = join(*(step for step in above if isinstance(step, str)))
    owner = _owner(tree, section)
    others = _other_owners(section, str(key), owner)
    if others:
        return f"is not an option of {owner}; it is one of {', '.join(others)} ({NAMED_BY[section]})", ""
    if not above and key in known and "." in str(key):
        *sections, last = str(key).split(".")
        nested = "".join(f"{name}: {{" for name in sections)
        return f"is written with dots on the command line only; here write {nested}{last}: ...{'}' * len(sections)}", ""
    target = meant(section, str(key), known)
    if target is None:
        own = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
        return f"is not an option of {owner}; it has {', '.join(own) or 'no options'}", ""
    dotted = target.split()[0].rstrip(":")
    words = target.removeprefix(f"{section}.")
    return f"is not an option of {owner}; did you mean {words}?", dotted if "." in dotted else join(*above, dotted)


def _owner(tree: Node, section: str) -> str:
    if section not in PARTS:
        return section or "a recipe"
    node = _find(tree, NAMED_BY[section])
    return str(node.value) if node else DEFAULT_NAMES[section]


def _other_owners(section: str, key: str, owner: str) -> list[str]:
    """Parts of the same kind that have this option: `momentum` belongs to sgd."""
    kind = PARTS.get(section)
    names = [name for name in parts.names(kind) if name != owner] if kind else []
    return [name for name in names if kind and key in parts.load(kind, name).Config.model_fields]


# --- the tree ---------------------------------------------------------------------------------------------------------


def _find(tree: Node, key: str) -> Node | None:
    node: Node | None = tree
    for step in key.split("."):
        node = node.value.get(step) if node and isinstance(node.value, dict) else None
    return node


def _place(tree: Node, key: str) -> Any:
    """Where `key` was written, or the nearest section above it."""
    node, rest = tree, key
    while rest:
        if isinstance(node.value, dict) and rest in node.value:  # a key with dots, as those of sweep.space are
            return node.value[rest].key_place
        step, _, rest = rest.partition(".")
        if isinstance(node.value, dict) and step in node.value:
            node = node.value[step]
        elif isinstance(node.value, list) and step.isdecimal() and int(step) < len(node.value):
            node = node.value[int(step)]
        else:
            break
    return node.key_place


def _path_of_key(tree: Node, path: Path) -> Path:
    """`path` up to its last step that is a key of a mapping: a wrong item condemns its whole list."""
    node: Node | None = tree
    end = 0
    for index, step in enumerate(path):
        if node is not None and isinstance(node.value, dict):
            node, end = node.value.get(step), index + 1
        else:
            items = node.value if node is not None and isinstance(node.value, list) else []
            node = items[int(step)] if int(step) < len(items) else None  # an item that is missing has a step, too
    return path[:end]


def _without(tree: Node, path: Path, missing: bool) -> Node:
    """The tree without the key at `path`, or with a stand-in for a key that is missing there."""
    step, *rest = path
    if isinstance(tree.value, list):
        items = [
            _without(item, tuple(rest), missing) if index == step else item for index, item in enumerate(tree.value)
        ]
        return replace(tree, value=items)
    items_by_key = dict(tree.value)
    if rest and step in items_by_key:
        items_by_key[step] = _without(items_by_key[step], tuple(rest), missing)
    elif missing:
        items_by_key[step] = Node("?", DEFAULT, DEFAULT)
    else:
        items_by_key.pop(step, None)
    return replace(tree, value=items_by_key)
