"""Steps that compare rows with each other: duplicates, near duplicates, and rows of data.train that stand in data.eval."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from launcher.data.clean import texts
from launcher.data.clean.near import ROUNDING, Near, Pieces, jaccard, pieces
from launcher.data.clean.report import Item
from launcher.data.clean.steps import DropDuplicates, DropLeakage, DropNearDuplicates
from launcher.errors import DataError

Count = Callable[[Item, str], None]  # what is to be said about rows that stay
Dropped = Callable[[Item, str], None]  # (row, why)


def duplicates(step: DropDuplicates, rows: Sequence[Item], drop: Dropped, count: Count) -> Iterable[Item]:
    """Rows are the same if their inputs and generated texts are, and their answers; see `on_conflicting_label` for others."""
    columns = step.columns or (*texts.SEEN, *texts.TEXTS)
    groups: defaultdict[bytes, list[Item]] = defaultdict(list)
    for row in rows:
        groups[texts.key(row.example, columns, step.ignore_case)].append(row)
    gone: dict[int, str] = {}
    for group in filter(lambda group: len(group) > 1, groups.values()):
        gone |= _superfluous(step, group, count)
    for row in rows:
        if id(row) in gone:
            drop(row, gone[id(row)])
    return [row for row in rows if id(row) not in gone]


def _superfluous(step: DropDuplicates, group: Sequence[Item], count: Count) -> dict[int, str]:
    """Which of the rows that have the same texts are dropped, by their id, and why."""
    by_answer: defaultdict[bytes, list[Item]] = defaultdict(list)
    for row in group:
        by_answer[texts.answer(row.example)].append(row)
    if len(by_answer) > 1 and step.on_conflicting_label != "keep":
        first, second = [alike[0] for alike in by_answer.values()][:2]
        _conflict(step, first, second)
        return {
            id(row): f"the same as {(second if row is first else first).where}, with another answer" for row in group
        }
    gone: dict[int, str] = {}
    for alike in by_answer.values():
        stays = alike[0 if step.keep == "first" else -1]
        gone |= {id(row): f"the same as {stays.where}" for row in alike if row is not stays}
        if len(by_answer) > 1:
            count(stays, "rows kept whose input has other answers, too")
    return gone


def _conflict(step: DropDuplicates, first: Item, second: Item) -> None:
    if step.on_conflicting_label == "error":
        raise DataError(
            f"the same as {first.where}, with another answer",
            where=second.where,
            fix="mend the rows, or set on_conflicting_label of drop_duplicates to keep or drop",
        )


def near_duplicates(step: DropNearDuplicates, rows: Sequence[Item], drop: Dropped) -> Iterable[Item]:
    """Rows that are similar to none that was kept before."""
    columns = step.columns or texts.TEXTS
    index = _Similar(rows, columns, step.threshold, step.ngram)
    kept = []
    for row in rows:
        answer = texts.answer(row.example) if step.same_label else b""
        other, share = index.first(row, answer)
        if other is None:
            index.add(row, answer)
            kept.append(row)
        else:
            drop(row, f"{share:.2f} the same as {other.where}")
    return kept


def leakage(step: DropLeakage, rows: Sequence[Item], held_out: Sequence[Item], drop: Dropped) -> Iterable[Item]:
    """Rows whose input is none of those that are held out."""
    columns = step.columns or (*texts.SEEN, *texts.INPUTS)
    places = {texts.key(row.example, columns, step.ignore_case): row.where for row in reversed(held_out)}
    index = None
    if step.threshold is not None:
        index = _Similar([*rows, *held_out], columns, step.threshold, step.ngram)
        for row in held_out:
            index.add(row, b"")
    kept = []
    for row in rows:
        place = places.get(texts.key(row.example, columns, step.ignore_case))
        near, share = index.first(row, b"") if index and place is None else (None, 0.0)
        if place is not None:
            drop(row, f"its input is that of {place} in data.eval")
        elif near is not None:
            drop(row, f"its input is {share:.2f} the same as {near.where} in data.eval")
        else:
            kept.append(row)
    return kept


class _Similar:
    """Rows by the pieces of their columns. All columns must be similar; candidates come from the one that differs most."""

    def __init__(self, rows: Sequence[Item], columns: Sequence[str], threshold: float, ngram: int):
        self.threshold, self.ngram = threshold, ngram
        self._columns = [name for name in columns if any(name in row.example for row in rows)]
        distinct = {name: len({self._text(row, name) for row in rows}) for name in self._columns}
        self._main = max(self._columns, key=lambda name: distinct[name], default="")
        self._near = Near((self._text(row, self._main) for row in rows), threshold, ngram) if self._main else None
        self._added: list[tuple[Item, bytes]] = []

    def _text(self, row: Item, column: str) -> str:
        return texts.text(row.example, column) if column in row.example else ""

    def _pieces(self, row: Item, column: str) -> Pieces:
        return pieces(self._text(row, column), self.ngram)

    def add(self, row: Item, answer: bytes) -> None:
        if self._near is not None:
            self._near.add(self._near.ranks(self._text(row, self._main)))
            self._added.append((row, answer))

    def first(self, row: Item, answer: bytes) -> tuple[Item | None, float]:
        """The first one added that is similar and has the same answer, and how similar its least similar column is."""
        if self._near is None:
            return None, 0.0
        for number in self._near.similar(self._near.ranks(self._text(row, self._main))):
            other, others_answer = self._added[number]
            if answer == others_answer:
                shares = (jaccard(self._pieces(row, name), self._pieces(other, name)) for name in self._columns)
                if (share := min(shares)) >= self.threshold - ROUNDING:
                    return other, share
        return None, 0.0
