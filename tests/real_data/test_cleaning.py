"""Known faults of real data sets are found: as many as a slow reading of the files says.

Needs the folder of data sets in LAUNCHER_DATA, and takes seconds.
"""

import json
import os
from collections import Counter
from typing import Any

import pytest
from measured import DATA

from launcher.data.clean.pipeline import Cleaning
from launcher.data.clean.report import Report
from launcher.schema import Data
from launcher.section import freeze

pytestmark = pytest.mark.skipif("LAUNCHER_DATA" not in os.environ, reason="LAUNCHER_DATA is not set")
HEADER = {"header": ["label", "text"]}
RENAMED = {"columns": {"text": "text_a"}}


def cleaned(step: dict[str, Any], formats: str, train: str, held_out: str = "", **source: Any) -> Report:
    listed = [[{"path": str(DATA / path), **source}] if path else [] for path in (train, held_out)]
    data = Data.model_validate(freeze({"train": listed[0], "eval": listed[1], "clean": [step]}))
    return Cleaning(data, "train", (formats,)).report(0)


def pairs(path: str, skipped: int = 0) -> list[tuple[str, str]]:
    """(label, text) of a file of two columns."""
    lines = (DATA / path).read_text(encoding="utf-8").splitlines()[skipped:]
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines if line]


def sentences(path: str) -> list[str]:
    """With their tags."""
    return [block for block in (DATA / path).read_text(encoding="utf-8").split("\n\n") if block.strip()]


def test_duplicates() -> None:
    step = {"name": "drop_duplicates"}
    for report, given in (
        (cleaned(step, "labelled_text", "cls_sst2/train.tsv", **HEADER), pairs("cls_sst2/train.tsv")),
        (
            cleaned(step, "labelled_text", "cls_chnsenticorp_zh/train.tsv", **RENAMED),
            pairs("cls_chnsenticorp_zh/train.tsv", 1),
        ),
        (cleaned(step, "conll", "tok_wnut17/train.conll"), [s.strip() for s in sentences("tok_wnut17/train.conll")]),
    ):
        assert len(report.dropped) == sum(number - 1 for number in Counter(given).values()) > 0
        assert len(report.kept) == len(set(given))


def test_leakage() -> None:
    for folder, skipped, source in (("cls_sst2", 0, HEADER), ("cls_chnsenticorp_zh", 1, RENAMED)):
        train, test = (pairs(f"{folder}/{split}.tsv", skipped) for split in ("train", "test"))
        files = f"{folder}/train.tsv", f"{folder}/test.tsv"
        report = cleaned({"name": "drop_leakage"}, "labelled_text", *files, **source)
        texts = [text for _, text in test]
        assert len(report.dropped) == sum(text in texts for _, text in train) > 0


def test_answers_that_do_not_stand_where_they_should() -> None:
    for split in ("train", "validation", "test"):
        whole = json.loads((DATA / f"qa_cmrc2018_zh/{split}.json").read_text(encoding="utf-8"))
        wrong = 0
        for paragraph in (paragraph for article in whole["data"] for paragraph in article["paragraphs"]):
            for answer in (answer for question in paragraph["qas"] for answer in question["answers"]):
                start = answer["answer_start"]
                wrong += paragraph["context"][start : start + len(answer["text"])] != answer["text"]
        report = cleaned({"name": "fix_answers"}, "squad", f"qa_cmrc2018_zh/{split}.json")
        assert (
            report.counts["answers moved by fix_answers"] + report.counts["answers dropped by fix_answers"] == wrong > 0
        )


def test_languages() -> None:
    """Sentences of one language: next to none is dropped as another, and most are where that language is not wanted."""
    for path, language, source in (
        ("cls_banking77/train.csv", "en", {"columns": {"label": "category"}}),
        ("cls_sst2/train.tsv", "en", HEADER),
        ("cls_chnsenticorp_zh/train.tsv", "zh", RENAMED),
    ):
        wanted = cleaned({"name": "drop_language", "languages": [language]}, "labelled_text", path, **source)
        other = cleaned({"name": "drop_language", "languages": ["fr"]}, "labelled_text", path, **source)
        rows = len(wanted.kept) + len(wanted.dropped)
        assert len(wanted.dropped) / rows < 0.002 and len(other.dropped) / rows > 0.9, path
