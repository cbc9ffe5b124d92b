"""Runs side by side: in what their recipes differ, what each came to, and what it took."""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.report import words
from launcher.report.facts import Facts, best_of, gather, read_recipe, values_of
from launcher.run_folder import RunFolder, find_runs

NO_DIFFERENCE = ("output_dir", "name", "extends")  # of any interest: where a run is, and what it is called


@dataclass(frozen=True)
class Measure:
    """A metric of a run: the last value, and the best with its step."""

    last: float
    last_step: int
    best: float
    best_step: int
    lower_is_better: bool


@dataclass(frozen=True)
class Compared:
    """One run. `per_second` is the median of what was logged; `unreadable` is what could not be read of its folder."""

    path: Path
    label: str
    facts: Facts
    recipe: dict[str, Any]
    metrics: dict[str, Measure]
    per_second: float | None
    peak_gib: float | None
    parameters: int | None
    trained: int | None
    export_bytes: int | None
    error: str
    unreadable: list[str]


def compared(paths: Sequence[Path]) -> tuple[list[Compared], list[str]]:
    """The runs in the order of the paths, and a sentence for each path that is none."""
    folders = {path: RunFolder(path) for path in dict.fromkeys(paths)}
    runs = {path: folder for path, folder in folders.items() if folder.is_run()}
    labels = _labels(list(runs))
    return [_compared(folder, labels[path]) for path, folder in runs.items()], [
        f"{path}: {_why_not(path)}" for path in folders if path not in runs
    ]


def _why_not(path: Path) -> str:
    if not path.exists():
        return "there is no such folder"
    if not path.is_dir():
        return "is a file; give the folder of a run"
    below = find_runs(path)
    if below:
        return f"is no run; below it are {len(below)}, for example {below[0].path}"
    return "is no run: it has no attempts.jsonl, metrics.jsonl or plan.json"


def _labels(paths: list[Path]) -> dict[Path, str]:
    """As short as tells them apart: without the folders that all are in."""
    whole = {path: path.resolve() for path in paths}
    if len(set(whole.values())) < 2:
        return {path: path.resolve().name for path in paths}
    common = os.path.commonpath([one.parent for one in whole.values()])
    return {path: os.path.relpath(one, common) for path, one in whole.items()}


def _compared(folder: RunFolder, label: str) -> Compared:
    facts, planned = gather(folder), _planned(folder)
    recipe = read_recipe(folder)
    speeds = [value for _, value in values_of(facts.train, f"train/{facts.unit}_per_second")]
    peaks = [value for _, value in values_of(facts.train, "train/peak_memory_gib")]
    last = facts.attempts[-1] if facts.attempts else None
    return Compared(
        path=folder.path,
        label=label,
        facts=facts,
        recipe=dict(_flat(recipe)),
        metrics=dict(_metrics(facts)),
        per_second=statistics.median(speeds) if speeds else None,
        peak_gib=max(peaks, default=None),
        parameters=planned.get("parameters"),
        trained=planned.get("trainable_parameters"),
        export_bytes=_size(folder.path / "export"),
        error=last.error if last and facts.state != "done" else "",
        unreadable=list(dict.fromkeys(" ".join(sentence.split()) for sentence in folder.unreadable)),
    )


def _metrics(facts: Facts) -> Iterator[tuple[str, Measure]]:
    """Of evaluations, and of a test where one was made."""
    records = facts.evaluations + [one for one in facts.train if any(key.startswith("test/") for key in one)]
    names = dict.fromkeys(key for one in records for key in one if key.startswith(("eval/", "test/")))
    for name in sorted(names, key=lambda name: (name != facts.goal.metric, name != "eval/loss")):
        if found := values_of(records, name):
            lower = facts.goal.lower_is_better(name)
            best_step, best = best_of(found, lower, facts.exported_step)
            yield name, Measure(found[-1][1], found[-1][0], best, best_step, lower)


def _planned(folder: RunFolder) -> dict[str, int]:
    values = folder.plan().get("values")
    found = values if isinstance(values, dict) else {}
    numbers = {name: one.get("value") for name, one in found.items() if isinstance(one, dict)}
    return {name: value for name, value in numbers.items() if isinstance(value, int) and not isinstance(value, bool)}


def _size(folder: Path) -> int | None:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else None


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; a list of mappings, such as data.train, is gone into as well."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if _is_of_mappings(value) else ()
    for name, item in inside:
        yield from _flat(item, f"{key}.{name}".lstrip("."))
    if key and not inside:
        yield key, value


def _is_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def differences(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """Key of the recipe -> its value in each run, as text, where not all have the same; a dash where a run has no such key."""
    keys = dict.fromkeys(key for one in runs for key in one.recipe)
    known = [one for one in runs if one.recipe]
    differing = [
        key for key in keys if key not in NO_DIFFERENCE and len({_text(one.recipe.get(key)) for one in known}) > 1
    ]
    return {key: [_text(one.recipe.get(key)) for one in runs] for key in differing}


def _text(value: Any) -> str:
    if value is None:
        return words.NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def rows(runs: Sequence[Compared]) -> list[tuple[str, list[str], int | None]]:
    """(what, its value in each run, which run is the best or None) of what the runs came to and of what they took."""
    made: list[tuple[str, list[str], int | None]] = [("state", [one.facts.state for one in runs], None)]
    for name in dict.fromkeys(name for one in runs for name in one.metrics):
        found = [one.metrics.get(name) for one in runs]
        lower = next(one.lower_is_better for one in found if one is not None)
        made.append((f"{name} last", [_last(one) for one in found], _best([one and one.last for one in found], lower)))
        made.append(
            (f"{name} best", [_best_text(one) for one in found], _best([one and one.best for one in found], lower))
        )
    numbers = {
        "steps": [words.number(one.facts.step) for one in runs],
        "exported step": [words.number(one.facts.exported_step) for one in runs],
        "seen": [_seen(one.facts) for one in runs],
        "time": [words.duration(one.facts.seconds) for one in runs],
        "per second": [_per_second(one) for one in runs],
        "peak memory": [f"{one.peak_gib:.2f} GiB" if one.peak_gib is not None else words.NOTHING for one in runs],
        "trained parameters": [words.number(one.trained) for one in runs],
        "all parameters": [words.number(one.parameters) for one in runs],
        "export": [_bytes(one.export_bytes) for one in runs],
    }
    return made + [(name, cells, None) for name, cells in numbers.items() if set(cells) != {words.NOTHING}]


def _best(values: Sequence[float | None], lower: bool) -> int | None:
    """Which is the best, if one alone is."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    best = min(known) if lower else max(known)
    return values.index(best) if known.count(best) == 1 else None


def _last(measure: Measure | None) -> str:
    return words.NOTHING if measure is None else words.number(measure.last)


def _best_text(measure: Measure | None) -> str:
    return words.NOTHING if measure is None else f"{words.number(measure.best)} at {measure.best_step:,}"


def _seen(facts: Facts) -> str:
    return words.NOTHING if facts.seen is None else words.amount(facts.seen, facts.unit)


def _per_second(one: Compared) -> str:
    return words.NOTHING if one.per_second is None else words.amount(one.per_second, one.facts.unit)


def _bytes(size: int | None) -> str:
    return words.NOTHING if size is None else f"{words.short(size / 2**20)} MiB"


def record(one: Compared) -> dict[str, Any]:
    """The same for programs: full precision, bytes and seconds, null for what is not there."""
    facts = one.facts
    return {
        "path": str(one.path),
        "label": one.label,
        "state": facts.state,
        "error": one.error or None,
        "last_step": facts.step,
        "exported_step": facts.exported_step,
        "seen": facts.seen,
        "unit": facts.unit,
        "seconds": facts.seconds,
        "per_second": one.per_second,
        "peak_memory_gib": one.peak_gib,
        "parameters": one.parameters,
        "trained_parameters": one.trained,
        "export_bytes": one.export_bytes,
        "metrics": {name: vars(measure) for name, measure in one.metrics.items()},
        "unreadable": one.unreadable,
    }
