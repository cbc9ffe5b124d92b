"""What cleaning did to one source: counts, and a line for every row that it dropped."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import DataError

FILE = "cleaned.jsonl"
FOUND = "rows before cleaning"
SHOWN = 3


@dataclass(frozen=True)
class Item:
    """An example, where it stands, and the number of its source."""

    source: int
    where: str
    example: dict[str, Any]


@dataclass
class Report:
    """`dropped` holds {step, where, why}; `spoiled` the rows that could not be read at all."""

    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, str]] = field(default_factory=list)
    spoiled: list[DataError] = field(default_factory=list)
    kept: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def drop(self, step: str, item: Item, why: str) -> None:
        self.counts[f"rows dropped by {step}"] += 1
        self.dropped.append({"step": step, "where": item.where, "why": why})

    def write(self, folder: Path) -> None:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.dropped]
        (folder / FILE).write_text("".join(lines), encoding="utf-8")


def read(folder: Path) -> list[dict[str, str]]:
    """The dropped rows of prepared data; none where nothing was cleaned."""
    path = folder / FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def first_ones(dropped: list[dict[str, str]]) -> Iterator[str]:
    """A line for each of the first rows of every step, and how many more there are."""
    for step in dict.fromkeys(row["step"] for row in dropped):
        rows = [row for row in dropped if row["step"] == step]
        yield from (f"dropped by {step}: {row['where']}: {row['why']}" for row in rows[:SHOWN])
        if len(rows) > SHOWN:
            yield f"dropped by {step}: and {len(rows) - SHOWN:,} more"
