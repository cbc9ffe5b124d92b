"""Metrics from sums and counts, and the overlap of words against the published rule."""

import math
import random
import re
import string
from collections import Counter

import pytest

from launcher.tasks.causal_lm.metrics import score, summarize


def squad_f1(answer: str, reference: str) -> float:
    """The official rule, step by step: lower, punctuation out, articles out, spaces; then F1 of the bags of words."""

    def words(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    given, wanted = words(answer), words(reference)
    if not given or not wanted:
        return float(given == wanted)
    same = sum((Counter(given) & Counter(wanted)).values())
    return (
        0.0 if same == 0 else 2 * (same / len(given)) * (same / len(wanted)) / (same / len(given) + same / len(wanted))
    )


def test_english_is_scored_as_squad_does() -> None:
    chance = random.Random(0)
    words = ["the", "a", "An", "cat", "Cat.", "don't", "3.5", "x_y", "(dog)", "...", "dog", "\n", "theory"]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, 6))) for _ in range(300)]
    for answer, reference in zip(texts, texts[1:], strict=False):
        assert score(answer, reference) == pytest.approx(squad_f1(answer, reference)), (answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat", "A cat!", 1.0),
        ("cat cat", "cat", 2 / 3),
        ("cat dog", "dog cat", 1.0),
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("the", "a", 1.0),
        ("我很好", "我很好。", 1.0),
        ("我好", "我很好", 0.8),
        ("GPT模型", "gpt 模型", 1.0),
        ("北京", "上海", 0.0),
    ],
)
def test_by_hand(answer: str, reference: str, expected: float) -> None:
    assert score(answer, reference) == pytest.approx(expected)


def test_means_are_sums_over_counts() -> None:
    found = summarize({"tokens": (30.0, 20.0), "token_accuracy": (5.0, 20.0)}, [], None, None).values
    assert found == {"loss": 1.5, "perplexity": pytest.approx(math.exp(1.5)), "token_accuracy": 0.25}


def test_what_cannot_be_told_is_not_a_number_and_what_is_huge_is_infinite() -> None:
    nothing = summarize({"tokens": (0.0, 0.0), "token_accuracy": (0.0, 0.0)}, [], None, None).values
    assert all(math.isnan(value) for value in nothing.values())
    broken = summarize({"tokens": (math.nan, 4.0), "token_accuracy": (1.0, 4.0)}, [], None, None).values
    assert math.isnan(broken["perplexity"]), "a broken loss is not an infinite perplexity"
    assert (
        summarize({"tokens": (1e6, 1.0), "token_accuracy": (0.0, 1.0)}, [], None, None).values["perplexity"] == math.inf
    )
