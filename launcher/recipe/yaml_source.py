"""YAML text -> a tree in which every key and value knows its file, line and column.

The YAML 1.2 core types hold: `1e-4` is a number, `yes` and `on` are text. Refused, each with its place: duplicate
keys, tags, merge keys, keys that are not text, alias bombs, aliases inside themselves. Values are not judged.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

MAX_NODES, MAX_DEPTH = 20_000, 60


@dataclass(frozen=True)
class Place:
    """Where something was written: a file with line and column from 1, or the command line (line 0)."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


DEFAULT = Place("default")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe, printed as `place key: text`."""

    place: Place
    text: str
    key: str = ""

    def __str__(self) -> str:
        text = self.text.replace("?; ", "? ")
        return f"{self.place} {text}" if self.key else f"{self.place}: {text}"


@dataclass(frozen=True)
class Node:
    """A value with its place and that of its key; `value` is a scalar, a dict of nodes or a list of nodes."""

    value: Any
    place: Place
    key_place: Place
    quoted: bool = False

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


ALTERNATIVES = {"max_steps": "num_train_epochs", "num_train_epochs": "max_steps", "init": "name_or_path"}


def merge(base: Node, top: Node) -> Node:
    """`top` over `base`: mappings are merged key by key, everything else, lists too, is replaced.

    A key of `top` also takes the place of its alternative in `base`: max_steps on the command line, num_train_epochs in the file.
    """
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = {key: merge(base.value[key], node) if key in base.value else node for key, node in top.value.items()}
    outdone = {ALTERNATIVES[key] for key, node in top.value.items() if key in ALTERNATIVES and node.value is not None}
    kept = {key: node for key, node in base.value.items() if key not in outdone}
    return replace(top, value={**kept, **merged})


def read_file(path: Path, source: str, problems: list[Problem]) -> Node | None:
    """The mapping that a file holds, or None after adding to `problems`. `source` is the file's name in messages."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        problems.append(Problem(Place(source), "is a folder, not a recipe file"))
    except OSError as error:
        problems.append(Problem(Place(source), f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        before = bytes(error.object[: error.start])
        place = Place(source, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        problems.append(Problem(place, f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"))
    else:
        return _mapping(text, source, problems)
    return None


def _mapping(text: str, source: str, problems: list[Problem]) -> Node | None:
    node = read_text(text, source, problems)
    if node is None or isinstance(node.value, dict):
        return node
    if node.value is None:
        problems.append(Problem(Place(source), "is empty; a recipe needs at least task, method, model and data"))
    else:
        problems.append(Problem(node.place, "a recipe must be a mapping: lines of `key: value`"))
    return None


def read_text(text: str, source: str, problems: list[Problem], command_line: bool = False) -> Node | None:
    """The tree of one YAML text, or None after adding to `problems`. On the command line places have no line."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        tree = _Tree(source, command_line, problems)
        return Node(None, Place(source), Place(source)) if root is None else tree.node(root, None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source) if command_line or mark is None else Place(source, mark.line + 1, mark.column + 1)
        problems.append(Problem(place, _in_plain_words(error)))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(source, before.count("\n") + 1, error.position - before.rfind("\n"))
        problems.append(Problem(place, f"the character U+{error.character:04X} is not allowed in YAML"))
    finally:
        if loader is not None:
            loader.dispose()
    return None


class _Refused(yaml.MarkedYAMLError):  # type: ignore[misc]
    """YAML that is right but has no place in a recipe."""


def _in_plain_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if isinstance(error, _Refused):
        return str(problem)
    if "'\\t'" in problem:
        return "a tab; YAML is indented with spaces"
    for theirs, ours in _WORDS.items():
        if theirs in problem:
            return ours
    return f"not YAML: {problem}" + (f" {error.context}" if error.context and error.problem else "")


_WORDS = {
    "mapping values are not allowed here": "a `: ` inside a value; put the value in quotes, or check the indentation",
    "expected <block end>": "not YAML: the indentation does not fit the lines above",
    "could not find expected ':'": "not YAML: a `:` is missing after a key on this line or the one above",
    "expected ',' or ']'": "not YAML: a list in [ ] is not closed, or a comma is missing",
    "expected ',' or '}'": "not YAML: a mapping in { } is not closed, or a comma is missing",
    "found unexpected end of stream": "not YAML: a quote is not closed",
    "but found another document": "a second document (`---`); a recipe is one document",
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's parser with the types of the YAML 1.2 core schema, without tags, and not too deep."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:  # only nodes can have one, an alias cannot
            raise _Refused(problem=f"the tag {event.tag}; recipes have no tags", problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(problem=f"more than {MAX_DEPTH} levels", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TAG = "tag:yaml.org,2002:"
_CORE_TYPES = {  # YAML 1.2.2, section 10.3.2
    "null": (r"null|Null|NULL|~|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
for _name, (_pattern, _first) in _CORE_TYPES.items():
    _regexp = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(_TAG + _name, _regexp, ["" if c == "\0" else c for c in _first])


def _scalar(tag: str, text: str) -> Any:
    if tag == _TAG + "null":
        return None
    if tag == _TAG + "bool":
        return text.lower() == "true"
    if tag == _TAG + "int":
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if tag == _TAG + "float" else text


class _Tree:
    """Turns PyYAML's graph into our tree; aliases are written out, within a limit."""

    def __init__(self, source: str, command_line: bool, problems: list[Problem]):
        self.source, self.command_line, self.problems = source, command_line, problems
        self.num_nodes, self.open = 0, dict[int, Any]()  # nodes being read, by id, outermost first

    def place(self, node: Any) -> Place:
        mark = node.start_mark
        return Place(self.source) if self.command_line else Place(self.source, mark.line + 1, mark.column + 1)

    def node(self, node: Any, key_place: Place | None) -> Node:
        self._guard(node)
        place = self.place(node)
        key_place = key_place or place
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node), place, key_place, quoted=node.style is not None)
        self.open[id(node)] = node.start_mark
        value: Any = (
            self._dict(node) if isinstance(node, yaml.MappingNode) else [self.node(n, None) for n in node.value]
        )
        del self.open[id(node)]
        return Node(value, place, key_place)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return _scalar(node.tag, node.value)
        except ValueError as error:  # Python reads no integer of more than 4300 digits
            raise _Refused(problem="a number of too many digits", problem_mark=node.start_mark) from error

    def _guard(self, node: Any) -> None:
        self.num_nodes += 1
        if id(node) in self.open:
            raise _Refused(problem="this anchor contains itself", problem_mark=node.start_mark)
        if self.num_nodes > MAX_NODES:
            problem = f"more than {MAX_NODES} values once the aliases are written out"
            raise _Refused(problem=problem, problem_mark=[*self.open.values(), node.start_mark][1])

    def _dict(self, mapping: yaml.MappingNode) -> dict[str, Node]:
        items: dict[str, Node] = {}
        for key, value in mapping.value:
            refusal = self._refuse_key(key, items)
            if refusal:
                self.problems.append(Problem(self.place(key), refusal))
            else:
                items[key.value] = self.node(value, self.place(key))
        return items

    def _refuse_key(self, key: Any, items: dict[str, Node]) -> str | None:
        if not isinstance(key, yaml.ScalarNode):
            return "a key must be a name, not a list or a mapping"
        if key.value == "<<":
            return "merge keys (<<) are refused; start from another recipe with `extends: base.yaml`"
        if key.tag != _TAG + "str":
            return f'the key {key.value or "null"} is not text; write "{key.value}" in quotes'
        if key.value in items:
            return f"the key {key.value} is given twice; the first is at {items[key.value].key_place}"
        return None


class Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes whatever YAML 1.1 or 1.2 would take for something else than text, so that both read back the same."""


for _name, (_pattern, _first) in _CORE_TYPES.items():
    _regexp = re.compile(f"^(?:{_pattern})$")
    Dumper.add_implicit_resolver(_TAG + _name, _regexp, ["" if c == "\0" else c for c in _first])
