"""Steps of `data.clean` that contradict themselves, each other, or the task."""

from collections.abc import Iterator
from typing import Any

from launcher import parts
from launcher.data.clean import language, texts
from launcher.data.clean.steps import (
    DropDuplicates,
    DropLanguage,
    DropLeakage,
    DropLength,
    FixAnswers,
    NormalizeUnicode,
    Trim,
)
from launcher.data.formats import all_columns
from launcher.errors import EnvironmentProblem
from launcher.schema import Sections
from launcher.suggest import did_you_mean

Finding = tuple[str, str]
LIMITS = ("min_chars", "max_chars", "min_words", "max_words")


def findings(recipe: Sections) -> Iterator[Finding]:
    if recipe.task not in parts.names("tasks"):
        return
    columns = all_columns(parts.load("tasks", recipe.task).TRAITS.formats)
    steps = recipe.data.clean
    for index, step in enumerate(steps):
        key = f"data.clean.{index}"
        yield from _task(key, step, recipe.task, columns)
        yield from _columns(key, step, recipe.task, columns)
        if isinstance(step, DropLength):
            yield from _limits(key, step)
        if isinstance(step, DropLanguage):
            yield from _languages(key, step)
        if isinstance(step, DropLeakage) and not recipe.data.eval:
            yield f"{key}.name", "drop_leakage compares data.train with data.eval; give data.eval"
        if isinstance(step, FixAnswers) and any(isinstance(one, Trim | NormalizeUnicode) for one in steps[:index]):
            yield (
                f"{key}.name",
                "fix_answers must stand before trim and normalize_unicode, which move what answer_start counts",
            )


def _task(key: str, step: Any, task: str, columns: tuple[str, ...]) -> Iterator[Finding]:
    has_texts = any(name in texts.TEXTS for name in columns)
    if isinstance(step, FixAnswers) and "answers" not in columns:
        yield f"{key}.name", f"{task} has no answers that stand in a context; take the step out"
    elif not has_texts and not isinstance(step, FixAnswers | DropDuplicates | DropLeakage):
        yield f"{key}.name", f"{step.name} is for texts, and {task} has none; take the step out"
    elif not has_texts and isinstance(step, DropLeakage) and step.threshold is not None:
        yield f"{key}.threshold", f"similarity is of texts, and {task} has none; take it out: files are the same or not"


def _columns(key: str, step: Any, task: str, columns: tuple[str, ...]) -> Iterator[Finding]:
    """Columns that the step looks at; only duplicates and leakage look at pictures and sounds."""
    seen = texts.SEEN if isinstance(step, DropDuplicates) or getattr(step, "threshold", 0) is None else ()
    known = [name for name in columns if name in (*texts.TEXTS, *seen)]
    for place, name in enumerate(getattr(step, "columns", None) or ()):
        if known and name not in known:
            yield (
                f"{key}.columns.{place}",
                f"{name} is none of the columns of {task} that {step.name} looks at"
                f"{did_you_mean(name, known) or '; these are ' + ', '.join(known)}",
            )
    if getattr(step, "columns", None) == ():
        yield f"{key}.columns", "names no column; take it out, or name some"


def _languages(key: str, step: DropLanguage) -> Iterator[Finding]:
    try:
        known = language.known()
    except EnvironmentProblem as error:
        yield f"{key}.name", str(error)
        return
    for place, code in enumerate(step.languages):
        if code not in known:
            yield f"{key}.languages.{place}", f"{code} is none of the languages that can be told: {', '.join(known)}"


def _limits(key: str, step: DropLength) -> Iterator[Finding]:
    if all(getattr(step, name) is None for name in LIMITS):
        yield f"{key}.name", f"drop_length sets no limit; give one of {', '.join(LIMITS)}"
    for unit in ("chars", "words"):
        least, most = getattr(step, f"min_{unit}"), getattr(step, f"max_{unit}")
        if least is not None and most is not None and least > most:
            yield f"{key}.max_{unit}", f"{most} is less than min_{unit}: {least}, so no row would be left"
