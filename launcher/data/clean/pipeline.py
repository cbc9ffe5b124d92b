"""`data.clean` at work: the examples of all sources of data.train, or of data.eval, through the steps in their order.

What is cleaned is held in memory, since rows are compared over all sources; it is prepared once and then read from disk.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from launcher.data import sources
from launcher.data.clean import alike, answers, language, texts
from launcher.data.clean.report import FOUND, Item, Report
from launcher.data.clean.steps import (
    BY_ROW,
    EDITS,
    DropBroken,
    DropDuplicates,
    DropEmpty,
    DropLanguage,
    DropLeakage,
    DropLength,
    DropNearDuplicates,
    FixAnswers,
    NormalizeUnicode,
    Trim,
)
from launcher.errors import DataError
from launcher.schema import Data, Source

REPLACEMENT = "\ufffd"


class Cleaning:
    """What `data.clean` leaves of each source of `which`, train or eval; found out when it is first asked for."""

    def __init__(self, data: Data, which: str, formats: Sequence[str]):
        self.data, self.formats, self.is_eval = data, formats, which == "eval"
        self.listed: tuple[Source, ...] = getattr(data, which)
        self.steps = [step for step in data.clean if not self.is_eval or isinstance(step, EDITS) or drops_eval(step)]

    def ingredients(self, number: int) -> list[Any]:
        """All that decides what is left of a source, besides itself: others, where rows are compared with theirs."""
        found: list[Any] = [[getattr(step, name) for name in type(step).model_fields] for step in self.data.clean]
        if any(isinstance(step, DropLanguage) for step in self.data.clean):
            found.append(language.library())
        if not all(isinstance(step, BY_ROW) for step in self.steps):
            found += [number, self.is_eval, *(sources.fingerprint(source, self.formats) for source in self.listed)]
        if any(isinstance(step, DropLeakage) for step in self.steps):
            found += [sources.fingerprint(source, self.formats) for source in self.data.eval]
        return found

    def report(self, number: int) -> Report:
        """Of one source: what is left, what is not, and why."""
        return self._reports[number]

    @cached_property
    def _reports(self) -> list[Report]:
        reports = [Report() for _ in self.listed]
        for item in self._through(self.steps, self._read(reports), reports):
            reports[item.source].kept.append((item.where, item.example))
        return reports

    def _read(self, reports: list[Report]) -> Iterator[Item]:
        mends = any(isinstance(step, FixAnswers) for step in self.data.clean)
        for number, source in enumerate(self.listed):
            spoiled = reports[number].spoiled.append if self.data.on_error == "skip" else None
            for where, example in sources.examples(source, self.formats, spoiled, misplaced=mends):
                reports[number].counts[FOUND] += 1
                yield Item(number, where, example)

    def _through(self, steps: Sequence[Any], items: Iterable[Item], reports: list[Report]) -> Iterable[Item]:
        for number, step in enumerate(steps):
            items = self._step(step, items, reports, number)
        return items

    def _step(self, step: Any, items: Iterable[Item], reports: list[Report], number: int) -> Iterable[Item]:
        def drop(item: Item, why: str) -> None:
            reports[item.source].drop(step.name, item, why)

        def count(item: Item, name: str) -> None:
            reports[item.source].counts[name] += 1

        match step:
            case Trim() | NormalizeUnicode():
                return (_edited(step, item, count) for item in items)
            case FixAnswers():
                return self._mended(step, items, reports)
            case DropLanguage():
                return language.without_others(step, items, drop, count)
            case DropDuplicates():
                return alike.duplicates(step, list(items), drop, count)
            case DropNearDuplicates():
                return alike.near_duplicates(step, list(items), drop)
            case DropLeakage():
                return alike.leakage(step, list(items), self._held_out(number), drop)
            case _:
                return _without(step, items, drop)

    def _held_out(self, number: int) -> list[Item]:
        """Of data.eval, edited as data.train is at this step, so that the two are alike."""
        evaluated = Cleaning(self.data, "eval", self.formats)
        reports = [Report() for _ in evaluated.listed]
        edits = [step for step in self.steps[:number] if isinstance(step, EDITS)]
        return list(evaluated._through(edits, evaluated._read(reports), reports))

    def _mended(self, step: FixAnswers, items: Iterable[Item], reports: list[Report]) -> Iterator[Item]:
        """A question that had answers and has none left is dropped; of data.eval it is an error, as it is without this step."""
        for item in items:
            report = reports[item.source]
            example, moved, lost = answers.mended(item.example, step.repair)
            report.counts["answers moved by fix_answers"] += moved
            report.counts["answers dropped by fix_answers"] += len(lost)
            if not lost or example["answers"]:
                yield Item(item.source, item.where, dict(example))
                continue
            why = f"{lost[0]['text']!r} does not stand at answer_start {lost[0]['answer_start']} of the context"
            if not self.is_eval:
                report.drop(step.name, item, why)
                continue
            error = DataError(why, where=item.where, fix="fix_answers found no place for it; mend the row")
            if self.data.on_error == "error":
                raise error
            report.spoiled.append(error)


def drops_eval(step: Any) -> bool:
    """Whether a step that drops rows does so in data.eval."""
    return bool(getattr(step, "eval", False))


def _edited(step: Trim | NormalizeUnicode, item: Item, count: Callable[[Item, str], None]) -> Item:
    example = item.example
    for column in texts.held(example, texts.TEXTS if step.columns is None else step.columns):
        if column == "context":
            example = dict(answers.moved(example, step))
        else:
            example = {**example, column: texts.edited(example, column, step)}
    if example == item.example:
        return item
    count(item, f"rows changed by {step.name}")
    return Item(item.source, item.where, example)


def _without(
    step: DropEmpty | DropLength | DropBroken, items: Iterable[Item], drop: Callable[[Item, str], None]
) -> Iterator[Item]:
    """Rows with which nothing is wrong."""
    for item in items:
        columns = texts.held(item.example, texts.TEXTS if step.columns is None else step.columns)
        problems = (_problem(step, item.example, column) for column in columns)
        if (why := next(filter(None, problems), None)) is None:
            yield item
        else:
            drop(item, why)


def _problem(step: DropEmpty | DropLength | DropBroken, example: texts.Example, column: str) -> str | None:
    if isinstance(step, DropEmpty):
        return f"{column} is empty" if texts.is_empty(example, column) else None
    return _length(step, example, column) if isinstance(step, DropLength) else _damage(step, example, column)


def _length(step: DropLength, example: texts.Example, column: str) -> str | None:
    text = texts.spoken(example, column)
    words = len(example[column]) if column == "tokens" else len(text.split())
    for unit, number in (("chars", len(text)), ("words", words)):
        least, most = getattr(step, f"min_{unit}"), getattr(step, f"max_{unit}")
        if least is not None and number < least:
            return f"{column} has {number:,} {unit}, fewer than {least:,}"
        if most is not None and number > most:
            return f"{column} has {number:,} {unit}, more than {most:,}"
    return None


def _damage(step: DropBroken, example: texts.Example, column: str) -> str | None:
    text = texts.spoken(example, column)
    if (number := text.count(REPLACEMENT)) > step.max_replacement_chars:
        return f"{column} has {number} replacement characters"
    shown = [character for character in text if not character.isspace()]
    letters = sum(unicodedata.category(character)[0] in "LMN" for character in shown)
    if shown and letters / len(shown) < step.min_letters:
        return f"of {column} {letters / len(shown):.2f} are letters, less than {step.min_letters:g}"
    return None
