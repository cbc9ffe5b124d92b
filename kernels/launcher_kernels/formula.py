"""The loss of one row of logits, and how partial results of it are put together.

With z the logits (scaled, then capped), y the target, w the class weights and t the token weight of a row,

    loss = t / D * [(1 - e) w_y (lse - z_y) + e/V sum_c w_c (lse - z_c) + zeta lse^2],      lse = log sum_c exp(z_c)

which is PyTorch's `cross_entropy` with label smoothing e (Szegedy et al., arXiv:1512.00567, section 7) plus the z-loss
(Chowdhery et al., PaLM, arXiv:2204.02311, section 5). D is 1, the number of items, or the sum of t w_y (the mean).

The softmax of a row is described by a few numbers that can be taken from parts of the vocabulary and merged (`Stat`), and the
loss by a few coefficients (`Coefficient`). Both are stacked in one tensor, one row of numbers each, so that one kernel
argument or one message carries them.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Stat(IntEnum):
    """Rows of a (len(Stat), N) tensor: what is known of each row of logits, over some part of the vocabulary."""

    MAX = 0
    SUM = 1  # of exp(z - MAX)
    TARGET = 2  # the target's logit, 0 where it is in another part
    WEIGHTED = 3  # sum of w z, for label smoothing
    ENERGY = 4  # sum of exp(z - MAX) z, for the entropy
    ARGMAX = 5  # exact in fp32 up to 2^24 classes


class Coefficient(IntEnum):
    """Rows of a (len(Coefficient), N) tensor: what each part of the loss of a row counts."""

    TOTAL = 0  # of lse: HARD + SMOOTH * sum of class weights
    HARD = 1  # of the target's logit
    SMOOTH = 2  # of w z of every class
    SQUARE = 3  # of lse^2


@dataclass(frozen=True)
class Formula:
    """The options that are the same for all rows. `vocabulary` is the number of classes, of all parts together."""

    vocabulary: int
    ignore_index: int = -100
    softcap: float | None = None
    scale: float = 1.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    wants_argmax: bool = False
    wants_entropy: bool = False


@dataclass(frozen=True)
class Rows:
    """What rows of logits are compared with. `label` is (N,) int64 in [0, V), -1 for an ignored row."""

    label: Tensor
    coefficients: Tensor
    class_weight: Tensor | None
    formula: Formula

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.label[rows], self.coefficients[:, rows], self.class_weight, self.formula)


def prepare(
    target: Tensor, formula: Formula, class_weight: Tensor | None, token_weight: Tensor | None, dtype: torch.dtype
) -> Rows:
    """Labels and coefficients (before any division) of `target` (N,). A target out of range poisons its row with NaN."""
    target = target.long()
    class_weight = None if class_weight is None else class_weight.contiguous()  # a kernel reads it by address
    valid = target != formula.ignore_index
    inside = (target >= 0) & (target < formula.vocabulary)
    label = torch.where(valid, torch.where(inside, target, 0), -1)
    importance = valid.to(dtype) if token_weight is None else torch.where(valid, token_weight.to(dtype), 0)
    importance = importance.masked_fill(valid & ~inside, torch.nan)
    coefficients = importance.new_empty(len(Coefficient), target.numel())
    weight = 1.0 if class_weight is None else class_weight.to(dtype)[label.clamp(min=0)]
    weight_sum = formula.vocabulary if class_weight is None else class_weight.to(dtype).sum()
    coefficients[Coefficient.HARD] = importance * weight * (1 - formula.label_smoothing)
    coefficients[Coefficient.SMOOTH] = importance * (formula.label_smoothing / max(formula.vocabulary, 1))
    coefficients[Coefficient.TOTAL] = (
        coefficients[Coefficient.HARD] + coefficients[Coefficient.SMOOTH] * weight_sum
        if formula.label_smoothing
        else coefficients[Coefficient.HARD]
    )
    coefficients[Coefficient.SQUARE] = importance * formula.z_loss
    return Rows(label, coefficients, class_weight, formula)


def weight_of_targets(rows: Rows) -> Tensor:
    """Sum of token weight x class weight over the rows: what `reduction="mean"` divides by."""
    hard = rows.coefficients[Coefficient.HARD].sum()
    if rows.formula.label_smoothing < 1:
        return hard / (1 - rows.formula.label_smoothing)
    importance = rows.coefficients[Coefficient.SMOOTH] * rows.formula.vocabulary
    return (importance if rows.class_weight is None else importance * rows.class_weight[rows.label.clamp(min=0)]).sum()


def merge(parts: Tensor) -> Tensor:
    """Stats of whole rows from those of P consecutive parts of the vocabulary; (P, len(Stat), N) -> (len(Stat), N)."""
    largest, first = parts[:, Stat.MAX].max(0)  # of equal ones, the first
    shrink = (parts[:, Stat.MAX] - torch.where(largest == -torch.inf, 0, largest)).exp()
    merged = parts.sum(0)
    merged[Stat.MAX] = largest
    for name in (Stat.SUM, Stat.ENERGY):
        merged[name] = (parts[:, name] * shrink).sum(0)
    merged[Stat.ARGMAX] = parts[:, Stat.ARGMAX].gather(0, first.unsqueeze(0)).squeeze(0)
    return merged


def stats_of_no_class(num_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Stats of an empty part of a vocabulary, which change nothing where they are merged."""
    stats = torch.zeros(len(Stat), num_rows, dtype=dtype, device=device)
    stats[Stat.MAX] = -torch.inf
    return stats


def neutral_stats(num_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Stats that give a loss of zero."""
    stats = torch.zeros(len(Stat), num_rows, dtype=dtype, device=device)
    stats[Stat.SUM] = 1
    return stats


def logsumexp(stats: Tensor) -> Tensor:
    return stats[Stat.MAX] + stats[Stat.SUM].log()


def loss_of_rows(stats: Tensor, rows: Rows) -> Tensor:
    """The loss of each row, (N,). The maximum is taken off first: logits of 10^4 leave no room for a loss in fp32."""
    log_sum = stats[Stat.SUM].log()
    loss = rows.coefficients[Coefficient.HARD] * (stats[Stat.MAX] - stats[Stat.TARGET] + log_sum)
    if rows.formula.label_smoothing:
        smooth, total = rows.coefficients[Coefficient.SMOOTH], rows.coefficients[Coefficient.TOTAL]
        lse = stats[Stat.MAX] + log_sum
        loss = loss + (total - rows.coefficients[Coefficient.HARD]) * lse - smooth * stats[Stat.WEIGHTED]
    return loss + square_of_rows(stats, rows) if rows.formula.z_loss else loss


def square_of_rows(stats: Tensor, rows: Rows) -> Tensor:
    """The z-loss of each row, (N,)."""
    return rows.coefficients[Coefficient.SQUARE] * logsumexp(stats).square()


def entropy_of_rows(stats: Tensor, rows: Rows) -> Tensor:
    return torch.where(rows.label >= 0, logsumexp(stats) - stats[Stat.ENERGY] / stats[Stat.SUM], 0)


def slope_of_softmax(stats: Tensor, rows: Rows) -> Tensor:
    """d loss / d lse of each row: what the softmax counts in the gradient."""
    total = rows.coefficients[Coefficient.TOTAL]
    return total + 2 * rows.coefficients[Coefficient.SQUARE] * logsumexp(stats) if rows.formula.z_loss else total
