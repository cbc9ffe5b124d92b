"""From the likeliest answers of windows to that of the question they belong to."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

COLUMNS = ("window", "first_context", "char_starts", "char_ends", "id", "question", "context", "answers", "where")


@dataclass
class Candidate:
    """The likeliest answer of a question so far: characters [start, end) of the context, scores in logits, and probabilities
    within the window that each is from."""

    start: int = 0
    end: int = 0
    score: float = -np.inf
    probability: float = 0.0


@dataclass
class Answer:
    """What is said to a question. `null_score`: of no answer, the least of all windows, as SQuAD 2.0's scripts take it."""

    row: Mapping[str, Any]
    best: Candidate = field(default_factory=Candidate)
    null_score: float = np.inf
    null_probability: float = 0.0

    @property
    def null_difference(self) -> float:
        """By how much having no answer scores more than the best answer."""
        return self.null_score - self.best.score

    def span(self, threshold: float | None) -> tuple[int, int] | None:
        """Characters [start, end) of the context, white space around them left out; None for no answer."""
        if self.best.score == -np.inf or threshold is not None and self.null_difference > threshold:
            return None
        text = self.row["context"][self.best.start : self.best.end]
        start = self.best.start + len(text) - len(text.lstrip())
        return (start, start + len(text.strip())) if text.strip() else None

    def text(self, threshold: float | None) -> str:
        span = self.span(threshold)
        return "" if span is None else str(self.row["context"][slice(*span)])

    def probability(self, threshold: float | None) -> float:
        return self.null_probability if self.span(threshold) is None else self.best.probability

    def see(self, prediction: np.ndarray, row: Mapping[str, Any]) -> None:
        """Take in what a window says; of equal answers the first stays."""
        first, last, score, null_score, total = prediction.tolist()
        if score > self.best.score:
            start, end = (int(place) - row["first_context"] for place in (first, last))
            places = int(row["char_starts"][start]), int(row["char_ends"][end])
            self.best = Candidate(*places, score, float(np.exp(score - total)))
        if null_score < self.null_score:
            self.null_score, self.null_probability = null_score, float(np.exp(null_score - total))


def answers(predictions: Iterable[np.ndarray], rows: Iterable[Mapping[str, Any]]) -> Iterator[Answer]:
    """One for each question, in order; the windows of a question follow each other."""
    current: Answer | None = None
    for prediction, row in zip(predictions, rows, strict=True):
        if row["window"] == 0:
            if current is not None:
                yield current
            current = Answer(row)
        assert current is not None, "the first window of a question comes first"
        current.see(prediction, row)
    if current is not None:
        yield current
