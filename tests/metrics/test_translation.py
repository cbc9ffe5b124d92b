"""BLEU against Papineni's formula, chrF against Popović's, ROUGE against its definition, and what sacrebleu says aloud."""

import math
import random
from collections import Counter

import pytest

from launcher.errors import EnvironmentProblem, RecipeError
from launcher.metrics.translation import corpus


def ngrams(items: list[str] | str, order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[i : i + order]) for i in range(len(items) - order + 1))


def slow_bleu(predicted: list[str], references: list[str]) -> float:
    """Papineni et al. 2002, section 2.3, over words between spaces; an order without a match is halved again each time
    (mteval-v13a's smoothing), and one without any n-gram makes it 0."""
    pairs = [(p.split(), r.split()) for p, r in zip(predicted, references, strict=True)]
    given, wanted = sum(len(p) for p, _ in pairs), sum(len(r) for _, r in pairs)
    logarithms, halved = [], 1
    for order in (1, 2, 3, 4):
        matches = sum((ngrams(p, order) & ngrams(r, order)).total() for p, r in pairs)
        total = sum(ngrams(p, order).total() for p, _ in pairs)
        if not total or (order == 1 and not matches):
            return 0.0
        if not matches:
            halved *= 2
        logarithms.append(math.log(matches / total if matches else 1 / (halved * total)))
    brevity = 1.0 if given >= wanted else math.exp(1 - wanted / given)
    return 100 * brevity * math.exp(sum(logarithms) / 4)


def slow_chrf(predicted: list[str], references: list[str]) -> float:
    """Popović 2015: F with beta 2 of precision and recall averaged over the orders 1 to 6 of characters, spaces aside.

    As in sacrebleu, a text counts for an order only where its reference is long enough to have one.
    """
    pairs = [("".join(p.split()), "".join(r.split())) for p, r in zip(predicted, references, strict=True)]
    precisions, recalls = [], []
    for order in range(1, 7):
        matches = sum((ngrams(p, order) & ngrams(r, order)).total() for p, r in pairs if len(r) >= order)
        given = sum(ngrams(p, order).total() for p, r in pairs if len(r) >= order)
        wanted = sum(ngrams(r, order).total() for _, r in pairs)
        if given and wanted:
            precisions.append(matches / given)
            recalls.append(matches / wanted)
    if not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall)


def slow_rouge(predicted: str, reference: str, order: int) -> float:
    given, wanted = ngrams(predicted.split(), order), ngrams(reference.split(), order)
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total()) if shared else 0.0


def slow_rouge_l(predicted: str, reference: str) -> float:
    """The longest common subsequence, by trying both ends."""

    def longest(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return 0
        return 1 + longest(a[1:], b[1:]) if a[0] == b[0] else max(longest(a[1:], b), longest(a, b[1:]))

    given, wanted = tuple(predicted.split()), tuple(reference.split())
    return 2 * longest(given, wanted) / (len(given) + len(wanted)) if given and wanted else 0.0


def case(seed: int) -> tuple[list[str], list[str]]:
    chance = random.Random(seed)

    def text() -> str:
        return " ".join(chance.choices(["ab", "b", "cab", "d"], k=chance.randint(0, 7)))

    references = [text() for _ in range(chance.randint(1, 3))]
    return [reference if chance.random() < 0.3 else text() for reference in references], references


def test_a_thousand_cases_equal_the_formulas() -> None:
    names = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
    for seed in range(1000):
        predicted, references = case(seed)
        pairs = list(zip(predicted, references, strict=True))
        expected = {"bleu": slow_bleu(predicted, references), "chrf": slow_chrf(predicted, references)}
        expected |= {f"rouge{n}": sum(slow_rouge(*pair, n) for pair in pairs) / len(pairs) for n in (1, 2)}
        expected["rougeL"] = sum(slow_rouge_l(*pair) for pair in pairs) / len(pairs)
        values = corpus(predicted, references, names).values
        assert values == {name: pytest.approx(value, abs=1e-6) for name, value in expected.items()}, seed


def test_only_what_is_asked_for_is_measured_and_the_signature_is_noted() -> None:
    found = corpus(["a cat sat there"], ["a cat sat there"])
    assert found.values == {"bleu": 100.0, "chrf": 100.0}
    assert [note.split("|")[0] for note in found.details["notes"]] == ["bleu: nrefs:1", "chrf: nrefs:1"]
    assert "tok:13a" in found.details["notes"][0]
    assert corpus(["a"], ["a"], ["rougeL"]) == ({"rougeL": 1.0}, {})


def test_chinese_is_split_by_its_tokenizer_for_bleu_and_rouge() -> None:
    predicted, references = ["我很喜欢这本书。"], ["我喜欢这本书。"]
    whole, split = (
        corpus(predicted, references, ["bleu", "rouge1"]).values,
        corpus(predicted, references, ["bleu", "rouge1"], "zh").values,
    )
    assert whole == {"bleu": 0.0, "rouge1": 0.0}
    assert split["bleu"] > 50 and split["rouge1"] == pytest.approx(2 * 7 / 15)


def test_nothing_is_printed_or_logged_of_tokenized_or_empty_text(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = corpus(["so it is ."] * 150 + [""], ["so it is ."] * 150 + [""], ["bleu", "chrf", "rouge1"])
    assert found.values["bleu"] > 0 and capfd.readouterr() == ("", "") and not caplog.records
    assert corpus([], []).values == {} and corpus([], []).details["notes"]


def test_a_tokenizer_that_is_unknown_or_does_not_load_is_the_users_to_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="no tokenizer 'klingon'.*13a"):
        corpus(["a"], ["a"], tokenize="klingon")
    monkeypatch.setitem(__import__("sys").modules, "MeCab", None)
    with pytest.raises(EnvironmentProblem, match="ja-mecab.*char"):
        corpus(["a"], ["a"], tokenize="ja-mecab")
