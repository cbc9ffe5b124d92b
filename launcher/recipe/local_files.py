"""Files that a recipe names: where they are, whether they exist, and whether their columns fit.

A relative path is looked for beside the recipe file that it was written in, then in the current folder; one that
exists becomes absolute, so that the resolved recipe means the same from everywhere. Paths on the command line,
`output_dir` and `data.cache_dir` are relative to the current folder.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from launcher import parts
from launcher.data.columns import LOOKUPS, all_column_names, column_names, data_files
from launcher.data.fit import detect, misfits, remedy
from launcher.data.formats import FORMATS, all_columns, in_words, needed
from launcher.recipe.layers import near_file
from launcher.recipe.yaml_source import Node, Problem
from launcher.schema import Sections, Source
from launcher.suggest import did_you_mean

MEDIA = ("data.train.*.media", "data.eval.*.media", "stages.*.data.train.*.media")
FOLDERS = ("model.name_or_path", "tokenizer.name_or_path", *MEDIA)
FILES = ("model.init", "tokenizer.chat_template", "distributed.deepspeed_config", "data.augment.*.path")
DATA = ("data.train.*.path", "data.eval.*.path", "stages.*.data.train.*.path")
TEMPLATES = (".jinja", ".jinja2")
Finding = tuple[str, str]  # key and what is wrong with it


def resolve(node: Node, missing: list[Problem], key: str = "") -> Node:
    """The tree with every path that exists made absolute; local paths that do not exist are added to `missing`."""
    if isinstance(node.value, dict):
        return replace(node, value={k: resolve(n, missing, f"{key}.{k}".lstrip(".")) for k, n in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[resolve(n, missing, f"{key}.{i}") for i, n in enumerate(node.value)])
    if isinstance(node.value, str) and node.value and _holds_path(key):
        return replace(node, value=_resolved(node, key, missing))
    return node


def _holds_path(key: str) -> bool:
    return _is_one_of(key, (*FOLDERS, *FILES, *DATA))


def _is_one_of(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def _resolved(node: Node, key: str, missing: list[Problem]) -> str:
    path: str = os.path.expanduser(node.value)
    is_folder = _is_one_of(key, FOLDERS)
    exists = os.path.isdir if is_folder else os.path.isfile if _is_one_of(key, FILES) else os.path.exists
    recipe_folder = os.path.dirname(node.place.source) if node.place.line else ""
    candidates = list(dict.fromkeys((os.path.join(recipe_folder, path), path)))
    for candidate in candidates:
        if exists(candidate):
            return os.path.abspath(candidate)
    is_inline = key == "tokenizer.chat_template" and not path.endswith(TEMPLATES)
    if not (is_inline or not _is_one_of(key, (*FILES, *MEDIA)) and is_hub_name(path, recipe_folder)):
        hints = [near_file(candidate) for candidate in candidates]
        hint = next((hint for hint in hints if "did you mean" in hint), hints[0])
        kind = "folder" if is_folder else "file"
        missing.append(Problem(node.place, f"{key}: there is no {kind} {' nor '.join(candidates)}{hint}", key))
    return path


def is_hub_name(path: str, recipe_folder: str = "") -> bool:
    """`owner/name` or `name`, without a data file's suffix, and not inside a folder that exists here."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) or Path(path).suffix in LOOKUPS:
        return False
    owner = os.path.dirname(path)
    return not (owner and (os.path.isdir(owner) or os.path.isdir(os.path.join(recipe_folder, owner))))


def train_data(recipe: Sections) -> Iterator[Finding]:
    """Training files that lack a column; looks at the first rows, at all where these lack one, and never at the network."""
    for index, source in enumerate(recipe.data.train):
        yield from _source(f"data.train.{index}", source, recipe)


def eval_data(recipe: Sections) -> Iterator[Finding]:
    """The same for the evaluation files."""
    for index, source in enumerate(recipe.data.eval):
        yield from _source(f"data.eval.{index}", source, recipe)


def _source(key: str, source: Source, recipe: Sections) -> Iterator[Finding]:
    if recipe.task not in parts.names("tasks"):
        return
    formats = parts.load("tasks", recipe.task).TRAITS.formats
    name = detect(source, formats)
    found = list(misfits(source, formats, name))
    if name is None or name in formats and FORMATS[name].layout is None:
        found += _columns(source, formats, name)
    yield from ((f"{key}.{own}", problem) for own, problem in found)
    if name is not None:
        yield from _against_recipe(key, name, recipe)


def _columns(source: Source, formats: Sequence[str], name: str | None) -> Iterator[Finding]:
    """Whether the first data file has the columns; a hub data set is looked at when it is read."""
    if not os.path.exists(source.path):
        return
    columns = _column_names(source, column_names)
    if isinstance(columns, list) and any(_fit(source, columns, formats, name)):
        columns = _column_names(source, all_column_names)
    if isinstance(columns, str):
        layouts = [format_name for format_name in formats if FORMATS[format_name].layout]
        yield "path", columns + (f"; nor does it look like {', '.join(layouts)}" if layouts else "")
    else:
        yield from _fit(source, columns, formats, name)


def _column_names(source: Source, look: Callable[[Path, Sequence[str]], list[str]]) -> list[str] | str:
    """The columns of the first data file, or the sentence that says why there are none."""
    files = data_files(Path(source.path))
    if not files:
        return f"the folder {source.path} holds no data file ({', '.join(LOOKUPS)})"
    try:
        return look(files[0], source.header or ())
    except ValueError as error:
        return f"{files[0]} {error}"


def _fit(source: Source, columns: list[str], formats: Sequence[str], name: str | None) -> Iterator[Finding]:
    has = f"the file has {', '.join(columns)}"
    for ours, theirs in source.columns.items():
        if theirs not in columns and ours not in source.defaults:
            yield f"columns.{ours}", f"{source.path} has no column {theirs}{did_you_mean(theirs, columns)}; {has}"
    if (
        name is None
        and set(source.columns) <= set(all_columns(formats))
        and set(source.columns.values()) <= set(columns)
    ):
        fix = remedy(source, columns, formats)
        yield "path", f"{source.path} fits no format ({in_words(formats)}); {has}; {fix}"
    for ours in needed(name) if name else ():
        if not {ours} & {*source.columns, *source.defaults, *columns}:
            near = (
                did_you_mean(ours, columns)
                .replace("did you mean ", f"did you mean columns: {{{ours}: ")
                .replace("?", "}?")
            )
            yield "format" if source.format else "path", f"{name} needs a column {ours}{near}; {has}"


def _against_recipe(key: str, name: str, recipe: Sections) -> Iterator[Finding]:
    if name == "text" and recipe.data.loss_on in ("assistant", "completion"):
        yield "data.loss_on", f"{recipe.data.loss_on} does not exist in plain text ({key}); use all, or leave it out"
    if name != "text" and recipe.data.on_truncate == "split":
        yield "data.on_truncate", f"split is for plain text, and {key} holds {name}; use drop or truncate"
