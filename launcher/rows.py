"""The prepared rows of a recipe: read, turned into rows by the task once, or taken from the cache; and what the rows tell."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from launcher import log, model, processor
from launcher.data import sources
from launcher.data.augment.pipeline import Augmentation
from launcher.data.clean import report
from launcher.data.clean.pipeline import Cleaning
from launcher.data.context import Context, Tools
from launcher.data.digest import file_digest
from launcher.data.labels import Labels, Unknown, UnknownLabels
from launcher.data.prepare import Joined, Prepared, default_cache_dir, prepare
from launcher.errors import DataError
from launcher.recipe import Recipe
from launcher.schema import Source

SPOILED_SHOWN = 5
DECODERS = 4  # threads that read pictures and sounds: decoding releases the interpreter's lock
SPOILED = "rows skipped because they cannot be used"


def _place(source: Source) -> tuple[str, str, str]:
    return source.path, source.name or "", source.split or ""


class Reader:
    """Makes rows of a recipe's data."""

    def __init__(self, recipe: Recipe, task: ModuleType, used_processor: Any):
        self.recipe, self.task, self.processor = recipe, task, used_processor
        self.on_truncate = recipe.data.on_truncate or task.TRAITS.on_truncate
        self.given = self._given()

    def rows(self, which: str, labels: Labels | None = None) -> Joined | None:
        """Those of data.train or data.eval, None where there is no source. `labels`: those that a row may have; None: as given."""
        listed = getattr(self.recipe.data, which)
        if not listed:
            return None
        joined = Joined(self._sources(which, self.given if labels is None else labels))
        log.say(f"data.{which} is {', '.join(source.path for source in listed)}")
        if which == "eval" and (learned := sorted(set(map(_place, listed)) & set(map(_place, self.recipe.data.train)))):
            log.say(
                f"note: {', '.join(path for path, *_ in learned)} is trained on, so it tells nothing about other rows"
            )
        log.say(f"data.{which}: " + ", ".join(f"{number:,} {name}" for name, number in joined.counts.items()))
        for line in report.first_ones([row for source in joined.sources for row in report.read(source.folder)]):
            log.say(f"data.{which}: {line}")
        return joined

    def context(self, train: Joined) -> Context:
        """What batches, losses and measurements are made with. Raises DataError where the data has too few labels, or
        augmentation cannot read its synonyms."""
        labels, counts = self._labels(train)
        context = Context(self.processor, self.recipe.data, processor.pad_token_id(self.processor), labels, counts, {})
        head = self.task.rows.head(train, context) if hasattr(self.task.rows, "head") else {}
        if context.data.augment:
            Augmentation(context, self.recipe.seed)  # what it lacks is said now
        return Context(context.processor, context.data, context.pad_token_id, labels, counts, head)

    def _given(self) -> Labels | None:
        """A task may read data.labels, or the values in the data, in its own way."""
        data = self.recipe.data
        if self.task.TRAITS.label_column is None or data.labels is None:
            return None
        if hasattr(self.task.rows, "labels_given"):
            own: Labels = self.task.rows.labels_given(data)
            return own
        return Labels.listed(data.labels)

    def _labels(self, train: Joined) -> tuple[Labels | None, tuple[int, ...]]:
        column = self.task.TRAITS.label_column
        if column is None:
            return None, ()
        counted = Counter(label for row in train.all(column) for label in row)
        found = self.given or getattr(self.task.rows, "labels_found", Labels.found)(counted)
        labels = self._in_order_of_the_model(found)
        if len(labels) < (least := self.task.TRAITS.least_labels):
            raise DataError(
                f"the training data has the labels {', '.join(labels.names) or 'of nothing'}, and at least {least} are needed",
                where=", ".join(source.path for source in self.recipe.data.train),
            )
        absent = [name for name in labels.names if not counted[name]]
        if len(absent) == len(labels.names) and least > 1:  # else a picture without an object teaches something, too
            paths = ", ".join(source.path for source in self.recipe.data.train)
            raise DataError("no row of data.train has any of the labels", where=paths, fix="look at data.labels")
        if absent:
            log.say(f"note: no row of data.train has the labels {', '.join(absent)}")
        return labels, tuple(counted[name] for name in labels.names)

    def _in_order_of_the_model(self, labels: Labels) -> Labels:
        """A model that has learned these very labels keeps their order, or its head would mean others."""
        if self.recipe.model.name_or_path is None:
            return labels
        named = model.load_config(self.recipe)[0].id2label or {}
        own = tuple(named[number] for number in sorted(named))
        if own == labels.names or set(own) != set(labels.names) or len(own) != len(labels):
            return labels
        if self.given is not None:
            log.say(
                "note: the model knows these labels in another order than data.labels, so its head has to learn anew"
            )
            return labels
        log.say("note: the labels stand in the order in which the model knows them")
        return replace(labels, names=own)

    def _sources(self, which: str, labels: Labels | None) -> list[Prepared]:
        """All of them. Raises UnknownLabels with those of all."""
        unknown, made = Unknown(labels), []
        cleaning = Cleaning(self.recipe.data, which, self.task.TRAITS.formats) if self.recipe.data.clean else None
        for number, source in enumerate(getattr(self.recipe.data, which)):
            try:
                made.append(self._source(source, labels, number, cleaning))
            except UnknownLabels as error:
                unknown.add(error.found)
        unknown.insist_on_none()
        return made

    def _source(self, source: Source, labels: Labels | None, number: int, cleaning: Cleaning | None) -> Prepared:
        data, task = self.recipe.data, self.task
        ingredients = {
            "source": sources.fingerprint(source, task.TRAITS.formats),
            "places": _places(source) if task.TRAITS.processor != "tokenizer" else [],
            "processor": processor.ingredients(self.processor),
            "options": [self.recipe.task, self.on_truncate, data.on_error, *self._data_options()],
            "clean": cleaning and cleaning.ingredients(number),
            "labels": labels and [list(labels.names), dict(labels.values)],
            "task": file_digest(Path(str(task.rows.__file__))),
        }
        of_source = partial(cleaning.report, number) if cleaning is not None else None
        return prepare(
            ingredients,
            lambda counts: self._rows(source, labels, counts, of_source),
            self._cache_dir(),
            task.rows.COLUMNS,
            beside=None if of_source is None else lambda folder: of_source().write(folder),
        )

    def _data_options(self) -> list[Any]:
        return [getattr(self.recipe.data, key) for key in self.task.TRAITS.data_keys]

    def _cache_dir(self) -> Path:
        return Path(self.recipe.data.cache_dir) if self.recipe.data.cache_dir else default_cache_dir()

    def _rows(
        self,
        source: Source,
        labels: Labels | None,
        counts: dict[str, int],
        of_source: Callable[[], report.Report] | None = None,
    ) -> Iterator[dict[str, Any]]:
        tools = Tools(self.processor, self.recipe.data, self.on_truncate, counts, labels)
        spoiled = _Skipped(tools) if self.recipe.data.on_error == "skip" else None
        examples: Iterable[tuple[str, Any]]
        if of_source is None:
            examples = sources.examples(source, self.task.TRAITS.formats, spoiled)
        else:
            examples = _cleaned(of_source(), counts, spoiled)
        unknown = Unknown(labels)
        threads = 1 if self.task.TRAITS.processor == "tokenizer" else DECODERS
        for made in ahead(lambda pair: list(self.task.rows.rows(*pair, tools)), examples, threads):
            try:
                yield from made()
            except DataError as error:
                if spoiled is not None:
                    spoiled(error)
                elif isinstance(error, UnknownLabels):
                    unknown.add(error.found)
                else:
                    raise
        unknown.insist_on_none()


def _cleaned(
    cleaned: report.Report, counts: dict[str, int], spoiled: Callable[[DataError], None] | None
) -> list[tuple[str, Any]]:
    """What cleaning left of a source; its counts, and the rows that it could not read, are taken over."""
    counts.update(cleaned.counts)
    for error in cleaned.spoiled:
        assert spoiled is not None, "an error is only gathered where it is to be skipped"
        spoiled(error)
    return cleaned.kept


def ahead(work: Callable[[Any], Any], things: Iterable[Any], threads: int) -> Iterator[Callable[[], Any]]:
    """Functions that return `work` of each thing, in order, or raise what it raised; on so many threads a little ahead."""
    if threads == 1:
        yield from (partial(work, thing) for thing in things)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Any] = deque()
        for thing in things:
            waiting.append(pool.submit(work, thing).result)
            if len(waiting) > 2 * threads:
                yield waiting.popleft()
        yield from waiting


def _places(source: Source) -> list[str]:
    """Where files are that rows name: a copy of the data, which has the same fingerprint, has rows of its own."""
    return [os.path.abspath(path) for path in (source.path, source.media) if path and os.path.exists(path)]


class _Skipped:
    """Counts rows that cannot be used, and says what is wrong with the first ones."""

    def __init__(self, tools: Tools):
        self._tools = tools

    def __call__(self, error: DataError) -> None:
        self._tools.count(SPOILED)
        if self._tools.counts[SPOILED] <= SPOILED_SHOWN:
            log.say(f"skipped: {error}")
