"""The labels of a task: their names in a stable order, and the value in a file that stands for each.

Where the recipe does not list them (`data.labels`), they are the values that occur in the training data: numbers in the order of
numbers, all else in the order of characters.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from launcher.errors import DataError
from launcher.suggest import did_you_mean

SHOWN = 12
LISTED = "data.labels"
IGNORED = -100  # as in launcher.losses, which needs more than this file may import


@dataclass(frozen=True)
class Labels:
    """`names` in order. `values`: value in a file -> name, where they differ. `origin`: where the names are from, for messages."""

    names: tuple[str, ...]
    values: Mapping[str, str]
    origin: str

    @classmethod
    def listed(cls, given: Sequence[str] | Mapping[str, str]) -> "Labels":
        """From `data.labels`: names, or a mapping of the values in the file to names."""
        values = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
        return cls(tuple(dict.fromkeys(values.values())), values, LISTED)

    @classmethod
    def found(cls, names: Iterable[str]) -> "Labels":
        """From what occurs in the training data."""
        ordered = in_order(names)
        return cls(ordered, {name: name for name in ordered}, "the training data")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Name -> its place, which is the model's output for it."""
        return {name: number for number, name in enumerate(self.names)}

    def names_of(self, placed: Iterable[tuple[str, str]]) -> list[str]:
        """The names of values in a file, each of which comes with its place. Raises UnknownLabels."""
        unknown, names = Unknown(self), []
        for value, where in placed:
            if value in self.values:
                names.append(self.values[value])
            else:
                unknown.add({value: (1, where)})
        unknown.insist_on_none()
        return names

    def line_with(self, more: Iterable[str]) -> str:
        """What to write under `data`, so that others are labels too. Numbers as a mapping, since a list would name 0, 1, ..."""
        values = {**self.values, **{value: value for value in more}}
        ordered = values if self.origin == LISTED else in_order(values)
        is_list = all(value == name for value, name in values.items()) and not all(map(_is_whole, values))
        line = list(ordered) if is_list else {value: values[value] for value in ordered}
        return f"labels: {json.dumps(line, ensure_ascii=False)}"

    def config(self) -> dict[str, Any]:
        """As a configuration of transformers holds them."""
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": dict(self.numbers),
        }


LISTED_IN_A_FIX = 20  # unknown labels; more are hardly labels
CONFUSED = "name the columns right: these look as if they were no labels"


class UnknownLabels(DataError):
    """Of rows, or of one. `found`: value -> how often, and where first."""

    def __init__(self, labels: Labels, found: Mapping[str, tuple[int, str]]):
        self.found = found
        value, (count, where) = next(iter(found.items()))
        often = ""
        if len(found) > 1:
            each = _few([f"{value!r} ({count:,}, first at {place})" for value, (count, place) in found.items()])
            problem = f"{len(found)} labels are none of {labels.origin}: {each}"
        else:
            likely = [name for name in labels.values if name[1:] != value[1:]]  # B-PER is not I-PER written badly
            problem = f"the label {value!r} is none of {labels.origin}{did_you_mean(value, likely)}"
            often = f"{count:,} times; " if count > 1 else ""
        super().__init__(
            f"{problem} ({often}known: {_few(list(labels.values))})",
            where=where,
            fix="mend the rows, set data.on_error: skip, or "
            + (f"list all under data: {labels.line_with(found)}" if len(found) <= LISTED_IN_A_FIX else CONFUSED),
        )


class Unknown:
    """Gathers unknown labels, so that all are named at once."""

    def __init__(self, labels: Labels | None):
        self.labels = labels
        self.found: dict[str, tuple[int, str]] = {}

    def add(self, found: Mapping[str, tuple[int, str]]) -> None:
        for value, (count, where) in found.items():
            before, first = self.found.get(value, (0, where))
            self.found[value] = before + count, first

    def insist_on_none(self) -> None:
        if self.found:
            assert self.labels is not None, "without labels, each is one"
            raise UnknownLabels(self.labels, self.found)


def _few(words: Sequence[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each once: whole numbers by value, all else by characters."""
    distinct = set(names)
    return tuple(sorted(distinct, key=int if all(_is_whole(name) for name in distinct) else str))


def text_of(value: Any, where: str) -> str:
    """A label as text: `1` for the number 1 and the number 1.0, `true` for true."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise DataError(
        f"a label must be text or a whole number, not {value!r}",
        where=where,
        fix="mend the row, or set data.on_error: skip",
    )


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and str(int(name)) == name


# --- labels of prepared rows -------------------------------------------------------------------------------------------


def of_row(value: Any, tools: Any, where: str) -> tuple[list[str], bool]:
    """The names of a row's labels, and whether a row may have several: then the file holds lists. All rows must be of one kind."""
    several = isinstance(value, list | tuple)
    if tools.memory.setdefault("several labels", several) != several:
        kinds = ("one label", "a list of labels")
        raise DataError(
            f"{kinds[several]}, and rows before have {kinds[not several]}", where=where, fix="write all rows alike"
        )
    names = list(dict.fromkeys(text_of(item, where) for item in (value if several else [value])))
    return tools.labels.names_of((name, where) for name in names) if tools.labels else names, several


def head(train: Any, context: Any) -> dict[str, Any]:
    """What the model's configuration must say of the labels of prepared rows."""
    several = {bool(value) for value in train.all("several")}
    if len(several) > 1:
        raise DataError("one source of data.train has one label a row, another has lists", fix="write both alike")
    kind = "multi_label_classification" if several.pop() else "single_label_classification"
    return {**context.labels.config(), "problem_type": kind}


def insist_alike(train: Any, evaluated: Any) -> None:
    """Prepared rows to train and to evaluate have both one label, or both lists."""
    kinds = ("one label a row", "lists of labels")
    first, second = ({bool(value) for value in rows.all("several")} for rows in (train, evaluated))
    if second - first:
        raise DataError(f"data.train has {kinds[first.pop()]}, data.eval {kinds[second.pop()]}", fix="write both alike")


def targets(rows: Sequence[Sequence[str]], context: Any) -> Any:
    """Labels of rows as a tensor: (rows,) int64 of numbers, or (rows, labels) fp32 of ones and zeros; -100 without a label.

    Without rows, one row without a label.
    """
    import torch

    numbers = context.labels.numbers
    if context.head["problem_type"] != "multi_label_classification":
        return torch.tensor([numbers[row[0]] if len(row) else IGNORED for row in rows] or [IGNORED])
    found = torch.zeros(max(1, len(rows)), len(numbers)) + (0.0 if rows else IGNORED)
    for number, row in enumerate(rows):
        found[number, [numbers[name] for name in row]] = 1.0
    return found
