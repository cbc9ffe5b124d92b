"""Answers to questions, by the rules of SQuAD, and of CMRC 2018 for Chinese: exact match and the F1 of shared words.

The official script of SQuAD 2.0 (arXiv:1606.05250, section 6.1; arXiv:1806.03822) is followed: lower case, no punctuation,
no articles, and of several right answers the best. Two rules are wider than its: punctuation is whatever Unicode counts
neither as a letter, digit or `_` nor as white space, not only ASCII's; and a Chinese or Japanese character is a word of its
own (arXiv:1810.07366). F1 is over bags of words for all languages; CMRC 2018's own script takes the longest common
subsequence instead, which is never more.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from launcher.metrics import Measured, finite, nothing

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """The words that count, in order: lower case, without punctuation and English articles."""
    found = _WORD.findall(_PUNCTUATION.sub("", text.lower()))
    return [word for word in found if word not in ("a", "an", "the")]


def word_f1(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, order aside, 0 to 1; two texts without words are equal."""
    given, wanted = words(answer), words(reference)
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not shared:
        return float(given == wanted)
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def exact_match(predicted: str, references: Sequence[str]) -> float:
    """1 if the words are those of one of the right answers, in order, else 0; without a right answer, "" is right."""
    return float(any(words(predicted) == words(reference) for reference in _right(references)))


def f1(predicted: str, references: Sequence[str]) -> float:
    """The F1 of the right answer that is nearest, 0 to 1; without a right answer, "" is worth 1 and all else 0."""
    return max(word_f1(predicted, reference) for reference in _right(references))


def answers(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    """exact_match and f1 averaged over the questions, 0 to 1; `references` holds each question's right answers.

    An empty list is a question without an answer. Where both kinds are there, HasAns_exact, HasAns_f1, NoAns_exact and
    NoAns_f1 tell them apart, by the names of the official script.
    """
    assert len(predicted) == len(references), (len(predicted), len(references))
    if not predicted:
        return nothing("there are no questions")
    pairs = list(zip(predicted, references, strict=True))
    exact, overlap = (np.array([rule(*pair) for pair in pairs]) for rule in (exact_match, f1))
    answerable = np.array([bool(right) for right in references])
    values = {"exact_match": float(exact.mean()), "f1": float(overlap.mean())}
    if 0 < answerable.sum() < len(pairs):
        for name, rows in (("HasAns", answerable), ("NoAns", ~answerable)):
            values[f"{name}_exact"], values[f"{name}_f1"] = float(exact[rows].mean()), float(overlap[rows].mean())
    return finite(values, {}, [])


def _right(references: Sequence[str]) -> list[str]:
    """Right answers without those of which nothing is left, as the official script does; [""] if none are."""
    return [reference for reference in references if words(reference)] or [""]
