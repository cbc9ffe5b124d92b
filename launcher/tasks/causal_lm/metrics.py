"""Language-model metrics from reduced sums, and the word overlap of generated answers."""

import math

from launcher.metrics import squad


def summarize(totals: dict[str, tuple[float, float]]) -> dict[str, float]:
    """`loss` (nats a token), its exponential and the greedy accuracy (0 to 1), from sums and counts over all ranks."""
    loss = _mean(totals["tokens"])
    return {
        "loss": loss,
        "perplexity": math.inf if loss > 700 else math.exp(loss),  # NaN stays NaN
        "token_accuracy": _mean(totals["token_accuracy"]),
    }


def score(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, order aside, 0 to 1, as questions are scored (`launcher.metrics.squad`)."""
    return squad.word_f1(answer, reference)


def _mean(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] else math.nan
