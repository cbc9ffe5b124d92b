"""SQuAD files: 1.1 where every question has an answer, else 2.0."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.data.formats.cells import Row
from launcher.data.writers.rows import dumped
from launcher.data.writers.writer import At, Facts, Writer


def _hold(row: Row, at: At) -> Row:
    if "id" in row:
        return row
    at.change("questions without an id get one")
    return {"id": f"row-{at.number + 1}", **row}


def _write(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    """Questions that follow each other about the same context share a paragraph, so the order stays."""
    version = "2.0" if facts.unanswered else "1.1"
    paragraphs = [
        {"context": context, "qas": [_question(row, version) for row in about]}
        for context, about in itertools.groupby(rows, lambda row: row["context"])
    ]
    path.write_text(
        dumped({"version": version, "data": [{"title": "", "paragraphs": paragraphs}]}) + "\n", encoding="utf-8"
    )


def _question(row: Row, version: str) -> dict[str, Any]:
    question = {name: row[name] for name in ("id", "question", "answers")}
    return question if version == "1.1" else {**question, "is_impossible": not row["answers"]}


SQUAD = Writer(kinds=("question_answers",), hold=_hold, write=_write, suffixes=(".json",), layout="squad")
