"""Files that a recipe names: where they are, whether they exist, and whether their columns fit.

A relative path is looked for beside the recipe file that it was written in, then in the current folder; one that
exists becomes absolute, so that the resolved recipe means the same from everywhere. Paths on the command line,
`output_dir` and `data.cache_dir` are relative to the current folder.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from launcher.data.columns import FORMAT_COLUMNS, LOOKUPS, OUR_COLUMNS, Format, column_names, data_files, detect_format
from launcher.recipe.layers import near_file
from launcher.recipe.yaml_source import Node, Problem
from launcher.schema import Sections, Source
from launcher.suggest import did_you_mean

FOLDERS = ("model.name_or_path", "tokenizer.name_or_path")
FILES = ("model.init", "tokenizer.chat_template", "distributed.deepspeed_config")
DATA = ("data.train.*.path", "data.eval.*.path")
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
    return any(fnmatch(key, pattern) for pattern in (*FOLDERS, *FILES, *DATA))


def _resolved(node: Node, key: str, missing: list[Problem]) -> str:
    path: str = os.path.expanduser(node.value)
    exists = os.path.isdir if key in FOLDERS else os.path.isfile if key in FILES else os.path.exists
    recipe_folder = os.path.dirname(node.place.source) if node.place.line else ""
    candidates = list(dict.fromkeys((os.path.join(recipe_folder, path), path)))
    for candidate in candidates:
        if exists(candidate):
            return os.path.abspath(candidate)
    is_inline = key == "tokenizer.chat_template" and not path.endswith(TEMPLATES)
    if not (is_inline or key not in FILES and is_hub_name(path, recipe_folder)):
        hints = [near_file(candidate) for candidate in candidates]
        hint = next((hint for hint in hints if "did you mean" in hint), hints[0])
        kind = "folder" if key in FOLDERS else "file"
        missing.append(Problem(node.place, f"{key}: there is no {kind} {' nor '.join(candidates)}{hint}", key))
    return path


def is_hub_name(path: str, recipe_folder: str = "") -> bool:
    """`owner/name` or `name`, without a data file's suffix, and not inside a folder that exists here."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) or Path(path).suffix in LOOKUPS:
        return False
    owner = os.path.dirname(path)
    return not (owner and (os.path.isdir(owner) or os.path.isdir(os.path.join(recipe_folder, owner))))


def train_data(recipe: Sections) -> Iterator[Finding]:
    """Training files that lack a column; looks at the first rows only, and never at the network."""
    for index, source in enumerate(recipe.data.train):
        yield from _source(f"data.train.{index}", source, recipe)


def eval_data(recipe: Sections) -> Iterator[Finding]:
    """The same for the evaluation files."""
    for index, source in enumerate(recipe.data.eval):
        yield from _source(f"data.eval.{index}", source, recipe)


def _source(key: str, source: Source, recipe: Sections) -> Iterator[Finding]:
    for ours in source.columns:
        if ours not in OUR_COLUMNS:
            hint = did_you_mean(ours, OUR_COLUMNS)
            yield f"{key}.columns.{ours}", f"{ours} is not one of our columns ({', '.join(OUR_COLUMNS)}){hint}"
    row_format: Format | None = source.format
    if os.path.exists(source.path):
        columns = _columns(source.path)
        if isinstance(columns, str):
            yield f"{key}.path", columns
        else:
            row_format = row_format or detect_format(columns, source.columns)
            yield from _fit(key, source, columns, row_format)
    if row_format:
        yield from _against_format(key, source, row_format, recipe)


def _columns(path: str) -> list[str] | str:
    """The columns of the first data file, or the sentence that says why there are none."""
    files = data_files(Path(path))
    if not files:
        return f"the folder {path} holds no data file ({', '.join(LOOKUPS)})"
    try:
        return column_names(files[0])
    except ValueError as error:
        return f"{files[0]} {error}"


def _fit(key: str, source: Source, columns: list[str], row_format: Format | None) -> Iterator[Finding]:
    has = f"the file has {', '.join(columns)}"
    for ours, theirs in source.columns.items():
        if theirs not in columns:
            yield f"{key}.columns.{ours}", f"{source.path} has no column {theirs}{did_you_mean(theirs, columns)}; {has}"
    if row_format is None and set(source.columns) <= set(OUR_COLUMNS) and set(source.columns.values()) <= set(columns):
        fix = "name its columns, for example columns: {prompt: question, completion: answer}"
        yield f"{key}.path", f"{source.path} fits no format (messages, prompt + completion, text); {has}; {fix}"
    for name in FORMAT_COLUMNS[row_format] if row_format else ():
        if name not in source.columns and name not in columns:
            near = (
                did_you_mean(name, columns)
                .replace("did you mean ", f"did you mean columns: {{{name}: ")
                .replace("?", "}?")
            )
            yield (
                f"{key}.format" if source.format else f"{key}.path",
                f"{row_format} needs a column {name}{near}; {has}",
            )


def _against_format(key: str, source: Source, row_format: Format, recipe: Sections) -> Iterator[Finding]:
    for ours in source.columns:
        if ours in OUR_COLUMNS and ours not in FORMAT_COLUMNS[row_format]:
            yield f"{key}.columns.{ours}", f"the format {row_format} has no column {ours}"
    if row_format == "text" and recipe.data.loss_on in ("assistant", "completion"):
        yield "data.loss_on", f"{recipe.data.loss_on} does not exist in plain text ({key}); use all, or leave it out"
    if row_format != "text" and recipe.data.on_truncate == "split":
        yield "data.on_truncate", f"split is for plain text, and {key} holds {row_format}; use drop or truncate"
