"""What the loss and the written texts are worth, and which texts are the worst."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.data.context import Context
from launcher.generation import Question
from launcher.metrics import Measured, per_token, translation

ERRORS_SHOWN = 20


def summarize(
    totals: Mapping[str, tuple[float, float]], predictions: Sequence[Any], rows: Any, context: Context
) -> Measured:
    return Measured(per_token.values(totals), {})


def scored_answers(
    answers: Sequence[str], questions: Sequence[Question], names: Sequence[str], tokenize: str
) -> Measured:
    """Of the whole corpus; the worst texts by chrF."""
    references = [question.reference for question in questions]
    found = translation.corpus(answers, references, names, tokenize)
    return Measured(found.values, {**found.details, "errors": _worst(answers, questions)})


def _worst(answers: Sequence[str], questions: Sequence[Question]) -> list[dict[str, Any]]:
    scores = translation.chrf_of_each(answers, [question.reference for question in questions])
    order = sorted(range(len(scores)), key=lambda index: scores[index])
    wrong = [index for index in order if answers[index] != questions[index].reference]
    return [
        {
            "where": questions[index].where,
            "input": questions[index].shown,
            "reference": questions[index].reference,
            "predicted": answers[index],
            "chrf": round(scores[index], 1),
        }
        for index in wrong[:ERRORS_SHOWN]
    ]
