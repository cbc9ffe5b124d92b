"""Of language models: loss, perplexity and accuracy of a token."""

import math
from collections.abc import Mapping


def values(totals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """`loss` (nats a token), its exponential and the greedy accuracy (0 to 1), from the sums and counts of `tokens` and
    `token_accuracy` over all ranks."""
    loss = _mean(totals["tokens"])
    return {
        "loss": loss,
        "perplexity": math.inf if loss > 700 else math.exp(loss),  # NaN stays NaN
        "token_accuracy": _mean(totals["token_accuracy"]),
    }


def _mean(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] else math.nan
