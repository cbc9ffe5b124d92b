"""Language-model metrics from reduced sums, and the word overlap of generated answers."""

from collections.abc import Sequence
from typing import Any

from launcher.data.context import Context
from launcher.generation import Question
from launcher.metrics import Measured, per_token, squad


def summarize(
    totals: dict[str, tuple[float, float]], predictions: Sequence[Any], rows: Any, context: Context
) -> Measured:
    return Measured(per_token.values(totals), {})


def scored_answers(
    answers: Sequence[str], questions: Sequence[Question], names: Sequence[str], tokenize: str
) -> Measured:
    """The metrics of generated answers: means over them."""
    scores = [score(answer, question.reference) for answer, question in zip(answers, questions, strict=True)]
    return Measured({"token_f1": sum(scores) / len(scores)} if scores else {}, {})


def score(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, order aside, 0 to 1, as questions are scored (`launcher.metrics.squad`)."""
    return squad.word_f1(answer, reference)
