"""Language-model metrics from reduced sums, and the word overlap of generated answers."""

import math
import re
from collections import Counter


def summarize(totals: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Sums and counts over all ranks -> `loss` (nats a token), `perplexity` (its exponential), `token_accuracy` (greedy, 0 to 1)."""
    loss = _mean(totals["tokens"])
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "token_accuracy": _mean(totals["token_accuracy"]),
    }


def score(answer: str, reference: str) -> float:
    """F1 of the words two texts share, order aside: SQuAD's rule (Rajpurkar et al., arXiv:1606.05250, section 6.1)."""
    given, wanted = _words(answer), _words(reference)
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not shared:
        return float(given == wanted)
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [word for word in words if word not in ("a", "an", "the")]


def _mean(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] else math.nan
