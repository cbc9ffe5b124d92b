"""Language-model metrics from reduced sums, and the word overlap of generated answers."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from launcher.data.context import Context
from launcher.metrics import Measured

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def summarize(
    totals: dict[str, tuple[float, float]], predictions: Sequence[Any], rows: Any, context: Context
) -> Measured:
    """`loss` (nats a token), its exponential and the greedy accuracy (0 to 1), from sums and counts over all ranks."""
    loss = _mean(totals["tokens"])
    values = {
        "loss": loss,
        "perplexity": math.inf if loss > 700 else math.exp(loss),  # NaN stays NaN
        "token_accuracy": _mean(totals["token_accuracy"]),
    }
    return Measured(values, {})


def scored_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The metrics of generated answers: means over them."""
    scores = [score(answer, reference) for answer, reference in zip(answers, references, strict=True)]
    return {"token_f1": sum(scores) / len(scores)} if scores else {}


def score(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, order aside, 0 to 1: SQuAD's rule (arXiv:1606.05250, section 6.1).

    Case, punctuation and articles do not count. A Chinese or Japanese character is a word (as in arXiv:1810.07366).
    """
    given, wanted = _words(answer), _words(reference)
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not shared:
        return float(given == wanted)
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    words = _WORD.findall(_PUNCTUATION.sub("", text.lower()))
    return [word for word in words if word not in ("a", "an", "the")]


def _mean(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] else math.nan
