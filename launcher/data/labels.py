"""The labels of a task: their names in a stable order, and the value in a file that stands for each.

Where the recipe does not list them (`data.labels`), they are the values that occur in the training data: numbers in the order of
numbers, all else in the order of characters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from launcher.errors import DataError
from launcher.suggest import did_you_mean

SHOWN = 12
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
        return cls(tuple(dict.fromkeys(values.values())), values, "data.labels")

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

    def name_of(self, value: str, where: str) -> str:
        """The name of a value in a file."""
        if value not in self.values:
            known = ", ".join(list(self.values)[:SHOWN]) + (", ..." if len(self.values) > SHOWN else "")
            raise DataError(
                f"the label {value!r} is none of {self.origin}{did_you_mean(value, self.values)} (known: {known})",
                where=where,
                fix="mend the row, list all labels under data.labels, or set data.on_error: skip",
            )
        return self.values[value]

    def config(self) -> dict[str, Any]:
        """As a configuration of transformers holds them."""
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": dict(self.numbers),
        }


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
    return [tools.labels.name_of(name, where) if tools.labels else name for name in names], several


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
