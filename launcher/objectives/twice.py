"""R-Drop (Liang et al., arXiv:2106.14448): every row twice, under other dropout, and a price on what differs.

The paper's loss of a row, -log p1 - log p2 + alpha / 2 * (KL(p1, p2) + KL(p2, p1)), halved, so that without dropout it is the loss
that it would be without R-Drop.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from launcher import chance, losses
from launcher.errors import RecipeError
from launcher.objectives.options import R_DROP_PIECE, Tokens


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All rows, and all of them once more: one pass with twice as many, which dropout treats each in its own way."""
    return {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}


def both(
    logits: Tensor, sum_of: Callable[[Tensor], Tensor], known: Tensor, alpha: float, several: bool = False
) -> tuple[Tensor, tuple[Tensor, float, float]]:
    """Of logits of `doubled` rows: the mean of both passes' loss sums, and R-Drop's own term."""
    first, second = logits.chunk(2)
    return (sum_of(first) + sum_of(second)) / 2, term(first, second, known, alpha, several)


def term(
    first: Tensor, second: Tensor, known: Tensor, alpha: float, several: bool = False
) -> tuple[Tensor, float, float]:
    """(sum, count, weight) of KL(p1, p2) + KL(p2, p1). Logits (..., labels), `known` (...) bool: what has a label.

    `several`: the labels of a row are independent, and each has a probability by itself.
    """
    if several:
        each = (first.sigmoid() - second.sigmoid()) * (first - second)
    else:
        each = (first.softmax(-1) - second.softmax(-1)) * (first.log_softmax(-1) - second.log_softmax(-1))
    return torch.where(known, each.sum(-1), 0).sum(), count(known), alpha / 4


def of_tokens(
    logits: Tensor, labels: Tensor, alpha: float, label_smoothing: float
) -> tuple[Tensor, tuple[Tensor, float, float], Tensor]:
    """Of logits (2 rows, tokens, vocabulary) of `doubled` rows: as `both`, and the hits of the first pass. labels: (rows, tokens),
    -100 is none. Goes through the tokens in pieces, which are computed once more in the backward pass."""
    size = max(1, R_DROP_PIECE // logits.shape[-1])
    first, second = (torch.split(half.flatten(0, 1), size) for half in logits.chunk(2))
    pieces = zip(first, second, torch.split(labels.flatten(), size), strict=True)
    again = partial(
        checkpoint, _of_a_piece, use_reentrant=False, preserve_rng_state=False
    )  # nothing here is drawn by chance
    found = [again(*piece, label_smoothing) for piece in pieces]
    total, apart, hits = (torch.stack(sums).sum() for sums in zip(*found, strict=True))
    return total, (apart, count(labels != losses.IGNORED), alpha / 4), hits


def _of_a_piece(first: Tensor, second: Tensor, labels: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the mean loss, of the divergence, and of hits. Logits (tokens, vocabulary), labels (tokens,)."""
    known = labels != losses.IGNORED
    one, two = (half[known].to(torch.promote_types(half.dtype, torch.float32)) for half in (first, second))
    (own, hits), (other, _) = (losses.from_logits(half, labels[known], label_smoothing) for half in (one, two))
    return (own + other) / 2, term(one, two, known[known], 0.0)[0], hits


def count(known: Tensor) -> float:
    return float(known.sum())


def insist_on_dropout(model: Any, alpha: float) -> None:
    if alpha and not chance.is_in(model):
        raise RecipeError(
            "loss.r_drop_alpha: this model drops nothing out, so both passes would be the same",
            fix="set regularization.dropout=0.1, or take it out",
        )


def passes(alpha: float) -> int:
    return 2 if alpha else 1


def in_words(alpha: float) -> str:
    return f", R-Drop with alpha {alpha:g}" if alpha else ""


def tokens_in_words(model: Any, options: Tokens) -> str:
    """What is more than the cross-entropy of tokens, where the model can have it."""
    insist_on_dropout(model, options.r_drop_alpha)
    smoothing = f", label smoothing {options.label_smoothing:g}" if options.label_smoothing else ""
    return smoothing + in_words(options.r_drop_alpha)
