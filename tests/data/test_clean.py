"""Cleaning beside slow references: what is dropped, what is edited, and that answers and tags stay in their places."""

import random
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from written import put

from launcher.data.clean import answers
from launcher.data.clean.near import Near, jaccard, pieces
from launcher.data.clean.pipeline import Cleaning
from launcher.data.clean.report import FOUND, Report
from launcher.data.clean.steps import NormalizeUnicode, Trim
from launcher.errors import DataError
from launcher.schema import Data
from launcher.section import freeze

TEXTS = ("labelled_text",)


def cleaning(
    folder: Path, steps: list[dict[str, Any]], *train: list[Any], held_out: Any = (), formats: Any = TEXTS, **more: Any
) -> Data:
    listed = [{"path": str(put(folder, f"{number}.jsonl", rows))} for number, rows in enumerate(train)]
    evaluated = [{"path": str(put(folder, "eval.jsonl", held_out))}] if held_out else []
    return Data.model_validate(freeze({"train": listed, "eval": evaluated, "clean": steps, **more}))


def cleaned(
    folder: Path, steps: list[dict[str, Any]], *train: list[Any], formats: Any = TEXTS, **more: Any
) -> list[Report]:
    work = Cleaning(cleaning(folder, steps, *train, **more), "train", formats)
    return [work.report(number) for number in range(len(train))]


def left(report: Report, column: str = "text") -> list[Any]:
    return [example[column] for _, example in report.kept]


def rows(texts: list[str], label: int = 0) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text in texts]


def test_every_row_is_kept_or_stands_in_the_list_of_what_was_dropped(tmp_path: Path) -> None:
    chance = random.Random(0)
    made = [rows([chance.choice("ab ") * chance.randint(0, 4) + " " for _ in range(60)]) for _ in range(2)]
    steps = [
        {"name": "trim"},
        {"name": "drop_empty"},
        {"name": "drop_length", "max_chars": 3},
        {"name": "drop_duplicates"},
    ]
    reports = cleaned(tmp_path, steps, *made)
    seen: list[str] = []
    for given, report in zip(made, reports, strict=True):
        texts = [row["text"].strip() for row in given]
        expected = []
        for text in texts:
            if text and len(text) <= 3 and text not in seen:
                expected.append(text)
                seen.append(text)
        assert left(report) == expected
        assert report.counts[FOUND] == 60 == len(report.kept) + len(report.dropped)
        assert Counter(f"rows dropped by {row['step']}" for row in report.dropped) == {
            name: number for name, number in report.counts.items() if name.startswith("rows dropped")
        }
        assert report.counts["rows changed by trim"] == 60


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ["a0", "A0", "b0", "b1"]),
        ({"keep": "last"}, ["A0", "b0", "a0", "b1"]),
        ({"ignore_case": True}, ["a0", "b0", "b1"]),
        ({"on_conflicting_label": "drop"}, ["a0", "A0"]),
        ({"on_conflicting_label": "error"}, None),
    ],
)
def test_duplicates_and_inputs_with_several_answers(options: dict[str, Any], texts: Any, tmp_path: Path) -> None:
    given = [{"text": word[0], "label": int(word[1])} for word in ("a0", "A0", "b0", "a0", "b1")]
    steps = [{"name": "drop_duplicates", **options}]
    if texts is None:
        with pytest.raises(DataError, match=r"0.jsonl:5: the same as .*0.jsonl:3, with another answer"):
            cleaned(tmp_path, steps, given)
        return
    (report,) = cleaned(tmp_path, steps, given)
    assert [f"{example['text']}{example['label']}" for _, example in report.kept] == texts


def test_near_finds_exactly_the_pairs_that_a_comparison_of_all_finds() -> None:
    chance = random.Random(1)
    for threshold in (0.3, 0.5, 2 / 3, 0.8, 0.85, 1.0):
        texts = ["".join(chance.choices("abc ", k=chance.randint(0, 14))) for _ in range(60)]
        texts += [text[:-1] + chance.choice("abc") for text in texts]
        near = Near(texts, threshold, 3)
        for number, text in enumerate(texts):
            slow = [
                other
                for other in range(number)
                if jaccard(pieces(text, 3), pieces(texts[other], 3)) >= threshold - 1e-9
            ]
            assert list(near.similar(near.ranks(text))) == slow
            near.add(near.ranks(text))


def test_near_duplicates_are_compared_with_rows_that_stay(tmp_path: Path) -> None:
    chance = random.Random(2)
    given = [
        {
            "text": "".join(chance.choices("ab ", k=9)),
            "text_pair": chance.choice(["x", "yy"]),
            "label": chance.choice([0, 1]),
        }
        for _ in range(150)
    ]
    (report,) = cleaned(tmp_path, [{"name": "drop_near_duplicates", "threshold": 0.6, "ngram": 2}], given)
    kept: list[dict[str, Any]] = []
    for row in given:
        alike = (
            row["label"] == other["label"]
            and all(jaccard(pieces(row[c], 2), pieces(other[c], 2)) >= 0.6 for c in ("text", "text_pair"))
            for other in kept
        )
        if not any(alike):
            kept.append(row)
    assert [example for _, example in report.kept] == kept and 20 < len(kept) < 140


def test_leakage_takes_rows_from_train_and_compares_them_as_they_are_edited(tmp_path: Path) -> None:
    held_out = rows(["one two three four ", "Other"])
    given = rows([" one two three four", "other", "one two three fourt", "new"])
    for options, texts in (
        ({}, ["other", "one two three fourt", "new"]),
        ({"ignore_case": True}, ["one two three fourt", "new"]),
        ({"threshold": 0.9}, ["new"]),
    ):
        steps = [{"name": "trim"}, {"name": "drop_leakage", **options}]
        data = cleaning(tmp_path, steps, given, held_out=held_out)
        report = Cleaning(data, "train", TEXTS).report(0)
        assert left(report) == texts
        assert "eval.jsonl:1 in data.eval" in report.dropped[0]["why"]
        assert left(Cleaning(data, "eval", TEXTS).report(0)) == ["one two three four", "Other"]


def test_evaluation_data_lose_no_row_unless_asked(tmp_path: Path) -> None:
    held_out = rows(["a ", "a", ""])
    for asked, texts in ((False, ["a", "a", ""]), (True, ["a"])):
        steps = [{"name": "trim"}, *({"name": name, "eval": asked} for name in ("drop_empty", "drop_duplicates"))]
        data = cleaning(tmp_path, steps, rows(["b"]), held_out=held_out)
        assert left(Cleaning(data, "eval", TEXTS).report(0)) == texts


@pytest.mark.parametrize("seed", range(4))
def test_answers_stay_the_same_characters_when_their_context_is_edited(seed: int) -> None:
    chance = random.Random(seed)
    steps = (
        Trim(name="trim", collapse_spaces=True),
        Trim(name="trim"),
        NormalizeUnicode(name="normalize_unicode", form="NFKC"),
    )
    for _ in range(150):
        context = "".join(chance.choices("ab  \t\n\u200bé½\x07ﬁ", k=chance.randint(3, 25)))
        spans = [sorted(chance.sample(range(len(context) + 1), 2)) for _ in range(3)]
        given = [{"text": context[a:b], "answer_start": a} for a, b in spans if context[a:b].strip()]
        for step in steps:
            made = answers.moved({"context": context, "answers": given}, step)
            for before, after in zip(given, made["answers"], strict=True):
                assert answers.stands(after, made["context"])
                assert visible(after["text"]) == visible(before["text"])
                assert step.name != "trim" or after["text"] == after["text"].strip()
                if made["context"] != context:  # as many visible characters stand before it
                    ahead = visible(context[: before["answer_start"]])
                    assert visible(made["context"][: after["answer_start"]]) == ahead
            assert visible(made["context"]) == visible(context)


def visible(text: str) -> str:
    """What no step may change, written in one way."""
    return re.sub(r"[\s\u200b\x07]", "", unicodedata.normalize("NFKC", text))


def test_wrong_places_of_answers_are_mended_or_the_question_is_dropped(tmp_path: Path) -> None:
    formats, context = ("question_answers",), "red car, red bus, blue van"

    def question(*answers: tuple[str, int]) -> dict[str, Any]:
        listed = [{"text": text, "answer_start": start} for text, start in answers]
        return {"question": "which?", "context": context, "answers": listed}

    given = [question(("red", 7)), question(("blue", 3), ("pink", 0)), question(("pink", 1)), question()]
    for repair, starts, dropped in (
        ("nearest", [[9], [18], []], [3]),
        ("unique", [[18], []], [1, 3]),
        ("none", [[]], [1, 2, 3]),
    ):
        (report,) = cleaned(tmp_path, [{"name": "fix_answers", "repair": repair}], given, formats=formats)
        assert [[answer["answer_start"] for answer in found] for found in left(report, "answers")] == starts
        assert [int(row["where"].rpartition(":")[2]) for row in report.dropped] == dropped
    with pytest.raises(DataError, match="does not stand at answer_start"):
        cleaned(tmp_path, [], given, formats=formats)
    data = cleaning(tmp_path, [{"name": "fix_answers"}], given[:1], held_out=given)
    with pytest.raises(DataError, match="eval.jsonl:3"):
        Cleaning(data, "eval", formats).report(0)


def test_tokens_keep_their_tags_and_turns_their_roles(tmp_path: Path) -> None:
    given = [{"tokens": ["a\u200b", " ", "b "], "tags": ["X", "O", "Y"]}]
    steps = [{"name": "normalize_unicode"}, {"name": "trim"}]
    (report,) = cleaned(tmp_path, steps, given, formats=("tagged_tokens",))
    assert report.kept[0][1] == {"tokens": ["a", " ", "b"], "tags": ["X", "O", "Y"]}
    turns = [{"role": "user", "content": " hi\r\n"}, {"role": "assistant", "content": "e\u0301 "}]
    (report,) = cleaned(tmp_path, steps, [{"messages": turns}], formats=("messages",))
    assert [turn["content"] for turn in report.kept[0][1]["messages"]] == ["hi", "\u00e9"]


def test_broken_rows_and_lengths_in_words(tmp_path: Path) -> None:
    given = rows(["fine words here", "lost \ufffd here now", "#### ---- ++++", "short"])
    steps = [{"name": "drop_broken", "min_letters": 0.5}, {"name": "drop_length", "min_words": 2}]
    (report,) = cleaned(tmp_path, steps, given)
    assert left(report) == ["fine words here"]
    assert [row["step"] for row in report.dropped] == ["drop_broken", "drop_broken", "drop_length"]


def test_the_same_picture_is_a_duplicate_whatever_its_name(tmp_path: Path) -> None:
    for name, content in (("a.png", "1"), ("b.png", "2"), ("c.png", "1")):
        put(tmp_path, name, content)
    given = [{"image": name, "label": 0} for name in ("a.png", "b.png", "c.png")]
    (report,) = cleaned(tmp_path, [{"name": "drop_duplicates"}], given, formats=("labelled_image",))
    assert [Path(image).name for image in left(report, "image")] == ["a.png", "b.png"]


def test_the_key_of_a_source_knows_the_steps_and_the_data_that_it_is_compared_with(tmp_path: Path) -> None:
    def key(steps: list[dict[str, Any]], held_out: list[Any], second: list[Any]) -> str:
        data = cleaning(tmp_path, steps, rows(["a"]), second, held_out=held_out)
        return str(Cleaning(data, "train", TEXTS).ingredients(0))

    leak, trim, twice = [{"name": "drop_leakage"}], [{"name": "trim"}], [{"name": "drop_duplicates"}]
    one, two = rows(["x"]), rows(["y"])
    assert key(leak, one, one) != key(leak, two, one)
    assert key(twice, one, one) != key(twice, one, two)
    assert key(trim, one, one) == key(trim, two, two) != key([{"name": "trim", "collapse_spaces": True}], one, one)
