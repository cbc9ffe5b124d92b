"""Language-model metrics from reduced sums, and the word overlap of generated answers."""

import math
from collections.abc import Sequence
from typing import Any

from launcher.data.context import Context
from launcher.generation import Question
from launcher.metrics import Measured, squad


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


def scored_answers(
    answers: Sequence[str], questions: Sequence[Question], names: Sequence[str], tokenize: str
) -> Measured:
    """The metrics of generated answers: means over them."""
    scores = [score(answer, question.reference) for answer, question in zip(answers, questions, strict=True)]
    return Measured({"token_f1": sum(scores) / len(scores)} if scores else {}, {})


def score(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, order aside, 0 to 1, as questions are scored (`launcher.metrics.squad`)."""
    return squad.word_f1(answer, reference)


def _mean(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] else math.nan
