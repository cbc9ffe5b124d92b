"""One row as a format sees it: under our column names, with defaults filled in, each cell checked as it is taken."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import DataError
from launcher.section import plain

Row = dict[str, Any]


@dataclass(frozen=True)
class Cells:
    """`columns` is {our name: the file's}; `folder` is what names of pictures and sounds are relative to."""

    row: Row
    where: str
    columns: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    labelled: bool = True
    misplaced: bool = False  # answers may stand elsewhere than where the row says, since cleaning mends that

    def get(self, name: str) -> Any:
        """The cell, or the default where the row leaves it out, holds null or an empty cell; None where there is none."""
        cell = self.row.get(self.columns.get(name, name))
        return plain(self.defaults[name]) if name in self.defaults and cell in (None, "") else cell

    def __getitem__(self, name: str) -> Any:
        """The cell or its default. Raises DataError where the row has no such column."""
        column = self.columns.get(name, name)
        if column not in self.row and name not in self.defaults:
            raise self.error(self._lacks(column))
        return self.get(name)

    def _lacks(self, column: str) -> str:
        return f"no column {column!r}; this row has {', '.join(map(repr, self.row))}"

    def said(self, name: str) -> str:
        return f"column {self.columns.get(name, name)!r}"

    def error(self, problem: str, fix: str = "") -> DataError:
        return DataError(problem, where=self.where, fix=fix)

    def text(self, name: str) -> str:
        return checked_text(self[name], self.said(name), self.where)

    def items(self, name: str) -> list[Any]:
        """A cell that is a list."""
        cell = self[name]
        if not isinstance(cell, list):
            fix = "a list needs jsonl, json or parquet" if isinstance(cell, str) else ""
            raise self.error(f"{self.said(name)} must be a list, not {kind(cell)}", fix)
        return cell

    def answer(self, name: str) -> Any:
        """A cell that is to be learned: there and not empty."""
        cell, column = self.get(name), self.columns.get(name, name)
        if cell is None or isinstance(cell, str) and not cell.strip():
            problem = f"{self.said(name)} is empty" if column in self.row else self._lacks(column)
            fix = f"give it a value, or {name} a default: data.*.defaults: {{{name}: ...}}, or {{{name}: []}} where rows hold lists"
            raise self.error(problem, fix)
        return cell

    def answered(self, *names: str) -> bool:
        """Whether to take the answers: always while they are to be learned from, else only where all are there."""
        return self.labelled or all(self.get(name) not in (None, "") for name in names)


def kind(value: Any) -> str:
    return "empty" if value is None else type(value).__name__


def checked_text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, not {kind(value)}", where=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # an emoji cut in two by whoever shortened the text; no tokenizer takes it
        raise DataError(f"{what} holds half a character at position {error.start}", where=where) from None
    return value


def label(cells: Cells, name: str = "label") -> Any:
    """A class or a number as it stands in the file, or a list of classes; what it means is the task's to say."""
    cell = _listed(cells.answer(name))
    for one in cell if isinstance(cell, list) else [cell]:
        if not isinstance(one, str | int | float) or isinstance(one, float) and not math.isfinite(one):
            held = one if isinstance(one, float) else kind(one)
            raise cells.error(f"{cells.said(name)} must hold text or finite numbers, not {held}")
        checked_text(str(one), cells.said(name), cells.where)
    return cell


def _listed(cell: Any) -> Any:
    """The list that a text is as JSON or as Python writes it, since a csv file holds no other; else the cell as it is."""
    if not isinstance(cell, str) or not (cell.startswith("[") and cell.endswith("]")):
        return cell
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    return found if all(isinstance(one, str | int | float) for one in found) else cell


def names(cells: Cells, column: str, what: str) -> list[str]:
    """A list of words, whole numbers written out as such: class numbers of hub data sets."""
    found: Sequence[Any] = cells.items(column)
    for number, item in enumerate(found):
        if not isinstance(item, str | int) or isinstance(item, bool) or item == "":
            held = "empty" if item == "" else kind(item)
            raise cells.error(f"{what} {number} in {cells.said(column)} must be text, not {held}")
    return [checked_text(str(item), f"{what} {number}", cells.where) for number, item in enumerate(found)]
