"""From one format of data to another: what would be lost is said first, and what is written is read back before it gets its name.

The rows are read several times, to learn what all of them are like, to learn what the format cannot hold, to write them, and to
compare; what is held in memory is a digest of each.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from xxhash import xxh3_128_digest

from launcher import log
from launcher.data import sources
from launcher.data.formats import FORMATS
from launcher.data.formats.cells import Row
from launcher.data.target import Target, refuse, staged
from launcher.data.unread import unread
from launcher.data.writers import holding, media
from launcher.data.writers.rows import dumped
from launcher.data.writers.writer import At, Facts, Tally, kind_of
from launcher.errors import DataError, RecipeError
from launcher.schema import Source

SHOWN = 5
# Where nobody says what the data is, those that say most about a row come first: a table of texts and labels is one of texts, too.
LIKELIEST = (
    *("mask_folder", "voc", "coco", "squad", "audio_folder", "image_folder", "conllu", "conll"),
    *sorted(
        (name for name in FORMATS if FORMATS[name].layout is None), key=lambda name: -len(FORMATS[name].all_columns)
    ),
)


@dataclass
class Outcome:
    """What was read and written. `skipped`: errors of rows that could not be used."""

    facts: Facts
    tally: Tally
    source: Source
    written: int = 0
    skipped: list[DataError] = field(default_factory=list)


def convert(inputs: Sequence[Source], formats: Sequence[str], target: Target) -> Outcome:
    """Write the rows of all inputs, in their order, and read them back.

    Raises DataError for rows that cannot be used unless `skip`, and for what would be lost unless `allow_loss`;
    EnvironmentProblem for a target that is there, StorageError for a disk that refuses.
    """
    refuse(inputs, target)
    rows = _Rows(inputs, formats, target.skip)
    facts = _facts(rows, target)
    tally = Tally()
    if not sum(1 for _ in _held(rows, facts, tally, target)):
        _nothing(rows, tally)
    target.writer.whole(facts, tally)
    _insist_on_no_loss(tally, facts, target)
    folder = _one_folder(facts, target)
    _tell_unread(inputs, formats, facts)
    with staged(target) as stage:
        wanted = _write(rows, facts, target, stage)
        file = stage / target.path.name if target.writer.suffixes else stage
        _compare(wanted, file, facts, target, folder)
    source = _source(target, target.path, facts, folder)
    return Outcome(facts, tally, source, len(wanted), rows.skipped)


# --- rows on their way ------------------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """The examples of all inputs, each time anew. `skipped`: the errors of the first time, where rows are skipped."""

    inputs: Sequence[Source]
    formats: Sequence[str]
    skip: bool
    skipped: list[DataError] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    unwritten: set[str] = field(default_factory=set)
    _is_first: bool = True

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        spoiled: Callable[[DataError], None] | None = None
        if self.skip:
            spoiled = self.skipped.append if self._is_first else lambda error: None
        for source in self.inputs:
            for where, row in sources.examples(source, self.formats, spoiled, misplaced=True):
                if where not in self.refused:
                    yield where, _own(where, row)
        self._is_first = False

    def refuse(self, where: str, error: DataError) -> None:
        """A row that is no row from now on."""
        if not self.skip:
            raise error
        self.refused.add(where)
        self.skipped.append(error)

    def leave_out(self, where: str, error: DataError) -> None:
        """A row that is not written; those behind it keep their numbers."""
        if not self.skip:
            raise error
        self.unwritten.add(where)
        self.skipped.append(error)


def _own(where: str, row: Row) -> Row:
    """Without the id that a row without one was given."""
    return {name: value for name, value in row.items() if name != "id" or value != where}


def _facts(rows: _Rows, target: Target) -> Facts:
    facts = None
    for where, row in rows:
        kind = kind_of(row, where)
        facts = facts or _first_facts(kind, target)
        if kind != facts.kind:
            raise DataError(f"is of {kind}, and rows before are of {facts.kind}", where=where, fix="convert them apart")
        try:
            dumped({name: value for name, value in row.items() if not isinstance(value, bytes)})
            target.writer.see(row, facts)
        except TypeError as error:
            rows.refuse(where, DataError(f"holds what JSON has no word for: {error}", where=where))
        else:
            facts.see(row)
    if facts is None or not facts.rows:
        _nothing(rows, Tally())
    assert facts is not None
    if not target.copies:
        media.insist_on_files(facts, target.writer, target.to)
        _insist_on_kept(facts, target)
    return facts


def _nothing(rows: _Rows, tally: Tally) -> NoReturn:
    why = "".join(f"\n  {line}" for line in [*map(str, rows.skipped[:SHOWN]), *in_words(tally.lost)])
    raise DataError(f"no row is left to be written{why and ':'}{why}", where=str(rows.inputs[0].path))


def _insist_on_kept(facts: Facts, target: Target) -> None:
    """The rows name pictures and sounds that stay where they are, which is not in what is replaced."""
    here = Path(os.path.realpath(target.path))
    if any(path and here in Path(os.path.realpath(path)).parents for _, path in facts.files):
        raise RecipeError("holds pictures or sounds that the rows name", where=str(target.path), fix=media.COPY)


def _first_facts(kind: str, target: Target) -> Facts:
    if kind not in target.writer.kinds:
        raise RecipeError(f"{target.to} cannot hold rows of {kind}", fix=f"use --to {', '.join(holding(kind))}")
    return Facts(kind)


def _held(rows: _Rows, facts: Facts, tally: Tally, target: Target) -> Iterator[tuple[int, str, Row]]:
    """(number, where, row as the format holds it) of those that it can hold."""
    for number, (where, row) in enumerate(rows):
        if where in rows.unwritten:
            continue
        try:
            held = target.writer.hold(row, At(facts, tally, number, where))
        except DataError as error:
            rows.leave_out(where, error)
        else:
            if held is not None:
                yield number, where, held


def _insist_on_no_loss(tally: Tally, facts: Facts, target: Target) -> None:
    if tally.lost and not target.allow_loss:
        lines = "".join(f"\n  {line}" for line in in_words(tally.lost))
        raise DataError(
            f"{target.to} cannot hold all of {facts.kind}; lost would be:{lines}",
            where=str(target.path),
            fix="nothing is written; choose another format, or add --allow-loss",
        )


def in_words(counts: dict[str, tuple[int, str]]) -> list[str]:
    """`12 x what (first: where)`."""
    return [f"{count:,} x {what}{where and f' (first: {where})'}" for what, (count, where) in counts.items()]


# --- writing ----------------------------------------------------------------------------------------------------------


def _write(rows: _Rows, facts: Facts, target: Target, stage: Path) -> list[tuple[str, bytes]]:
    """(where, digest) of every row, in the order in which they will be read."""
    writer = target.writer
    place = writer.places(facts) if writer.places else None
    folder = target.media.name if writer.suffixes else writer.media_folder
    copies = media.Copies(stage, folder, place, facts.kind)
    wanted: list[tuple[str, str, bytes]] = []

    def named() -> Iterator[Row]:
        for number, where, held in _held(rows, facts, Tally(), target):
            names = _names(held, number, where, copies, target)
            first = next(iter(names.values()), "") if place else ""
            wanted.append((first, where, _digest(held, target.copies)))
            yield {**held, **names}

    writer.write(named(), stage / target.path.name if writer.suffixes else stage, facts)
    if place:
        wanted.sort(key=lambda one: Path(one[0]))
    return [(where, digest) for _, where, digest in wanted]


def _names(held: Row, number: int, where: str, copies: media.Copies, target: Target) -> dict[str, Any]:
    """What stands in the row for its pictures and sounds."""
    if target.copies:
        return dict(copies.of_row(held, number, where))
    base = target.path.absolute().parent if target.writer.suffixes else target.path.absolute()
    files = {name: held[name] for name in media.columns_in(held)}
    return {name: media.reference(file, base) if isinstance(file, str) else file for name, file in files.items()}


def _digest(row: Row, by_content: bool) -> bytes:
    same = {**row, **(media.contents(row) if by_content else media.references(row))}
    return xxh3_128_digest(dumped(dict(sorted(same.items()))).encode())


# --- reading back -----------------------------------------------------------------------------------------------------


def _one_folder(facts: Facts, target: Target) -> Path | None:
    """Where the pictures are, for a format that names them without folders."""
    return media.in_one_folder(facts) if target.writer.bare_names and not target.copies else None


def _source(target: Target, path: Path, facts: Facts, folder: Path | None) -> Source:
    given = {"path": str(path), "format": target.writer.layout or facts.kind}
    return Source.model_validate({**given, **({"media": str(folder)} if folder else {})})


def _compare(wanted: list[tuple[str, bytes]], file: Path, facts: Facts, target: Target, folder: Path | None) -> None:
    """DataError where what is read differs from what was to be written."""
    if target.writer.suffixes and not target.copies and _has_names(facts):
        folder = target.path.absolute().parent  # names are relative to where the file will be
    source = _source(target, file, facts, folder)
    number = 0
    for number, (where, row) in enumerate(sources.examples(source, [str(source.format)], misplaced=True), 1):
        if number > len(wanted) or _digest(_own(where, row), target.copies) != wanted[number - 1][1]:
            origin = wanted[number - 1][0] if number <= len(wanted) else "none"
            _differs(target, f"row {number}, from {origin}, is read back otherwise")
    if number != len(wanted):
        _differs(target, f"{len(wanted):,} rows were written, and {number:,} are read back")


def _has_names(facts: Facts) -> bool:
    return any(path for _, path in facts.files) and FORMATS[facts.kind].has_media


def _differs(target: Target, problem: str) -> NoReturn:
    fix = "nothing is kept; leave that row out, or use --to jsonl"
    raise DataError(problem, where=str(target.path), fix=fix)


# --- what is said -----------------------------------------------------------------------------------------------------


def _tell_unread(inputs: Sequence[Source], formats: Sequence[str], facts: Facts) -> None:
    """What the launcher reads for no task goes no further."""
    for source in inputs:
        found = [f"{what} ({count:,} x)" for what, count in unread(source, tuple(formats), facts.kind).items()]
        if found:
            log.say(f"not carried over from {source.path}, being no part of {facts.kind}: {', '.join(found)}")
