"""Answers against the official rules of SQuAD 1.1 and 2.0, step by step, and by hand in Chinese."""

import random
import re
import string
from collections import Counter

import pytest

from launcher.metrics.squad import answers, exact_match, f1, words


def normalized(text: str) -> str:
    """evaluate-v2.0.py's `normalize_answer`."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def slow_f1(predicted: str, gold: str) -> float:
    given, wanted = normalized(predicted).split(), normalized(gold).split()
    if not given or not wanted:
        return float(given == wanted)
    same = sum((Counter(given) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def slow_scores(predicted: str, golds: list[str]) -> tuple[float, float]:
    """evaluate-v2.0.py's `get_raw_scores` of one question."""
    golds = [gold for gold in golds if normalized(gold)] or [""]
    return max(float(normalized(predicted) == normalized(g)) for g in golds), max(slow_f1(predicted, g) for g in golds)


def case(seed: int) -> tuple[list[str], list[list[str]]]:
    chance = random.Random(seed)
    vocabulary = ["the", "a", "An", "cat", "Cat.", "don't", "3.5", "x_y", "(dog)", "...", "dog", "\n", "theory", "é"]

    def text() -> str:
        return " ".join(chance.choices(vocabulary, k=chance.randint(0, 4)))

    questions = chance.randint(1, 4)
    return [text() for _ in range(questions)], [[text() for _ in range(chance.randint(0, 3))] for _ in range(questions)]


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def test_a_thousand_cases_equal_the_official_script() -> None:
    for seed in range(1000):
        predicted, references = case(seed)
        scored = [slow_scores(*pair) for pair in zip(predicted, references, strict=True)]
        kinds = {"HasAns": [s for s, r in zip(scored, references, strict=True) if r]}
        kinds["NoAns"] = [s for s, r in zip(scored, references, strict=True) if not r]
        expected = {"exact_match": mean([s[0] for s in scored]), "f1": mean([s[1] for s in scored])}
        if all(kinds.values()):
            expected |= {f"{kind}_exact": mean([s[0] for s in rows]) for kind, rows in kinds.items()}
            expected |= {f"{kind}_f1": mean([s[1] for s in rows]) for kind, rows in kinds.items()}
        assert answers(predicted, references).values == {k: pytest.approx(v) for k, v in expected.items()}, seed


@pytest.mark.parametrize(
    ("predicted", "references", "exact", "overlap"),
    [
        ("The cat", ["dog", "a cat!"], 1, 1),
        ("cat dog", ["dog cat"], 0, 1),
        ("black cat", ["the cat", "a black dog cat"], 0, 0.8),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("the", [], 1, 1),
        ("", ["cat"], 0, 0),
        ("", ["the"], 1, 1),
        ("北京大学", ["北京大学。"], 1, 1),
        ("北京", ["北京大学"], 0, 2 / 3),
        ("1998年", ["1998 年", "上海"], 1, 1),
        ("京北", ["北京"], 0, 1),
        ("GPT模型", ["gpt 模型"], 1, 1),
    ],
)
def test_by_hand(predicted: str, references: list[str], exact: float, overlap: float) -> None:
    assert exact_match(predicted, references) == exact
    assert f1(predicted, references) == pytest.approx(overlap)


def test_words_of_mixed_scripts() -> None:
    assert words("The iPhone发布于2007年，ひらがな") == ["iphone", "发", "布", "于", "2007", "年", *"ひらがな"]


def test_one_kind_of_question_is_not_told_apart_and_no_questions_give_a_reason() -> None:
    assert set(answers(["x"], [["x"]]).values) == {"exact_match", "f1"} == set(answers([""], [[]]).values)
    assert answers([], []).values == {} and answers([], []).details["notes"]
