"""What a writer is, what it is told of all rows before it writes, and where it says what its format cannot hold."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.data.formats.cells import Row
from launcher.data.formats.media import MEDIA
from launcher.errors import DataError

Place = Callable[[int, str, str], str]  # (number of the row, our column, suffix of the file) -> name below the output
LEFT_OUT = "rows that are left out: "
NUMBERS_AS_TEXT = "labels that are numbers or true/false become texts, which every task reads alike"


@dataclass
class Tally:
    """What becomes of the rows: {in words: (how often, where first)}.

    `lost` is gone for good; `changed` is written otherwise, or filled in, and means the same to every task.
    """

    lost: dict[str, tuple[int, str]] = field(default_factory=dict)
    changed: dict[str, tuple[int, str]] = field(default_factory=dict)

    def lose(self, what: str, where: str, number: int = 1) -> None:
        _add(self.lost, what, where, number)

    def change(self, what: str, where: str) -> None:
        _add(self.changed, what, where, 1)


def _add(counts: dict[str, tuple[int, str]], what: str, where: str, number: int) -> None:
    before, first = counts.get(what, (0, where))
    counts[what] = before + number, first


@dataclass
class Facts:
    """Of all rows, before the first is written.

    `columns`: in how many rows each is. `label_types`: names of Python's types, of the items where labels are lists, and `big`
    for whole numbers beyond 64 bits; `lists`: rows with a list. `files`: of every row, its label as text and the path of its
    picture or sound, "" where it has bytes. `unanswered`: questions; `misplaced`: answers. `schema`: of nested values, where
    a writer asks for one.
    """

    kind: str
    rows: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    label_types: set[str] = field(default_factory=set)
    lists: int = 0
    files: list[tuple[str, str]] = field(default_factory=list)
    has_bytes: bool = False
    unanswered: int = 0
    misplaced: int = 0
    schema: Any = None

    def see(self, row: Row) -> None:
        self.rows += 1
        self.columns.update(row.keys())
        if "label" in row:
            self.label_types |= _types(row["label"])
            self.lists += isinstance(row["label"], list)
        if self.kind == "question_answers":
            self.unanswered += not row["answers"]
            self.misplaced += sum(not _stands(answer, row["context"]) for answer in row["answers"])
        self.has_bytes |= any(isinstance(row.get(name), bytes) for name in MEDIA)
        if medium := next((row[name] for name in ("image", "audio") if name in row), None):
            self.files.append((label_text(row.get("label", "")), medium if isinstance(medium, str) else ""))

    def is_partial(self, column: str) -> bool:
        """Whether some rows have it and others not."""
        return 0 < self.columns[column] < self.rows


def _stands(answer: Row, context: str) -> bool:
    start = answer["answer_start"]
    return bool(start >= 0 and context.startswith(answer["text"], start))


def _types(label: Any) -> set[str]:
    if isinstance(label, list):
        return set().union(*map(_types, label))
    return {"big" if type(label) is int and not -(2**63) <= label < 2**63 else type(label).__name__}


@dataclass
class At:
    """One row on its way into a format: its number from 0, and where it is from."""

    facts: Facts
    tally: Tally
    number: int
    where: str

    def lose(self, what: str) -> None:
        self.tally.lose(what, self.where)

    def leave_out(self, why: str) -> Row | None:
        """What `hold` returns for a row that the format cannot hold: None."""
        self.tally.lose(LEFT_OUT + why, self.where)
        return None

    def change(self, what: str) -> None:
        self.tally.change(what, self.where)


@dataclass(frozen=True)
class Writer:
    """The twin of a reader: what it writes, `sources.examples` reads as `hold` says."""

    kinds: tuple[str, ...]
    """Names of the formats of rows that it can hold."""
    hold: Callable[[Row, At], Row | None]
    """(row, at) -> the row as it will be read back, each difference told to `at`; None for one that is left out."""
    write: Callable[[Iterable[Row], Path, Facts], None]
    """(rows, file or folder, facts); names of pictures and sounds are as they are to be written."""
    loses: Mapping[str, str] = field(default_factory=dict)
    """Kind -> what it cannot hold of some rows, for the table; "*" for every kind."""
    suffixes: tuple[str, ...] = ()
    """Of the file; empty for a folder."""
    layout: str | None = None
    """The format by which it is read back; None: the kind."""
    whole: Callable[[Facts, Tally], None] = lambda facts, tally: None
    """What is lost, or refused by a DataError, of all rows together."""
    see: Callable[[Row, Facts], None] = lambda row, facts: None
    """Looks at every row beforehand, for `facts.schema`."""
    copies: bool = False
    """Pictures and sounds are part of it."""
    bytes_inside: bool = False
    """It can hold the bytes of pictures and sounds."""
    places: Callable[[Facts], Place] | None = None
    """Where in the folder the pictures are put, which are read in the order of their names."""
    media_folder: str = ""
    """Folder of the output in which copies of pictures and sounds are, where `places` does not say."""
    bare_names: bool = False
    """Names of pictures have no folder: all are in one."""


def label_text(label: Any) -> str:
    """`1` for 1 and for 1.0, `true` for true, else as Python writes it; of a list, the empty text."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return "" if isinstance(label, list) else str(label)


def as_text(row: Row, at: At) -> Row:
    """A row whose label, or each label of its list, is text."""
    if "label" not in row:
        return row
    label = row["label"]
    texts = [label_text(one) for one in label] if isinstance(label, list) else label_text(label)
    if texts != label:
        at.change(NUMBERS_AS_TEXT)
    return {**row, "label": texts}


def in_columns(row: Row) -> Row:
    """As it stands in a file of rows: a conversation that was written as prompt and completion is again."""
    if "completion_turns" not in row:
        return row
    turns, number = row["messages"], len(row["messages"]) - row["completion_turns"]
    rest = {name: value for name, value in row.items() if name not in ("messages", "completion_turns")}
    return {"prompt": turns[:number], "completion": turns[number:], **rest}


def kind_of(row: Row, where: str) -> str:
    """The format of rows that an example comes from."""
    if "completion_turns" in row:
        return "prompt_completion"
    for kind, columns in KINDS.items():
        if all(column in row for column in columns):
            return kind
    raise DataError(f"a row of {', '.join(row)} is of no kind that can be written", where=where)


KINDS = {  # the format of rows: columns of its examples, those that hold others first
    "prompt_completion": ("prompt",),
    "messages": ("messages",),
    "tagged_tokens": ("tokens",),
    "question_answers": ("question",),
    "source_target": ("source",),
    "boxed_image": ("image", "boxes"),
    "masked_image": ("image", "mask"),
    "labelled_image": ("image",),
    "labelled_audio": ("audio",),
    "labelled_text": ("text", "label"),
    "text": ("text",),
}
