"""Rows of logits in plain PyTorch, a block of rows at a time so that all passes but the first find them in the cache."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher_kernels.formula import (
    Coefficient,
    Formula,
    Rows,
    Stat,
    neutral_stats,
    slope_of_softmax,
    stats_of_no_class,
)

BLOCK_BYTES = 4 * 2**20


def softmax_stats(z: Tensor, rows: Rows, start: int = 0) -> Tensor:
    """Stats (len(Stat), N) of logits (N, columns), which are left as they are."""
    stats = _empty_stats(z)
    if not z.shape[1]:
        return stats_of_no_class(z.shape[0], stats.dtype, z.device)
    for where, block in _blocks(z, None, rows.formula):
        stats[:, where] = _exponentials_(block, rows[where], start)
    return stats


def gradient_(z: Tensor, stats: Tensor, rows: Rows, start: int = 0, out: Tensor | None = None) -> None:
    """The gradient of the summed loss with respect to the logits, in their place or in `out`."""
    out = z if out is None else out
    if not z.shape[1]:
        return
    for where, block in _blocks(z, out, rows.formula):
        block.work.sub_(_finite(stats[Stat.MAX, where]).unsqueeze(1)).exp_()
        _gradient_(block, stats[:, where], rows[where], start)
        block.write_to(out[where])


def stats_and_gradient_(z: Tensor, rows: Rows, out: Tensor | None = None) -> Tensor:
    """Both of the above for whole rows, with one exponential for each logit."""
    out, stats = z if out is None else out, _empty_stats(z)
    for where, block in _blocks(z, out, rows.formula):
        stats[:, where] = _exponentials_(block, rows[where], 0)
        _gradient_(block, stats[:, where], rows[where], 0)
        block.write_to(out[where])
    return stats


@dataclass
class _Block:
    """Logits of a few rows, scaled and capped, in at least fp32; and the slope of the cap."""

    work: Tensor
    slope: Tensor | None

    def write_to(self, out: Tensor) -> None:
        if self.work.data_ptr() != out.data_ptr():
            out.copy_(self.work)


def _blocks(z: Tensor, out: Tensor | None, formula: Formula) -> Iterator[tuple[slice, _Block]]:
    """All rows, block by block. Work is done in `out` where that is given and precise enough, else in a buffer of one block."""
    dtype = torch.promote_types(z.dtype, torch.float32)
    num_rows = max(1, BLOCK_BYTES // max(1, dtype.itemsize * z.shape[1]))
    shape = (min(num_rows, z.shape[0]), z.shape[1])
    buffer = None if out is not None and out.dtype == dtype else z.new_empty(shape, dtype=dtype)
    slope = None if formula.softcap is None else z.new_empty(shape, dtype=dtype)
    for first in range(0, z.shape[0], num_rows):
        where = slice(first, min(first + num_rows, z.shape[0]))
        part = z[where]
        work = out[where] if buffer is None else buffer[: len(part)]
        if work.data_ptr() != part.data_ptr():
            work.copy_(part)
        if formula.scale != 1:
            work.mul_(formula.scale)
        yield where, _Block(work, None if slope is None else _cap_(work, slope[: len(part)], formula.softcap))


def _cap_(work: Tensor, slope: Tensor, softcap: float) -> Tensor:
    work.div_(softcap).tanh_()
    torch.mul(work, work, out=slope)
    work.mul_(softcap)
    return slope.neg_().add_(1)


def _exponentials_(block: _Block, rows: Rows, start: int) -> Tensor:
    """Stats of a block, whose numbers become exp(z - max)."""
    z, formula = block.work, rows.formula
    stats = neutral_stats(z.shape[0], z.dtype, z.device)
    if formula.wants_argmax:
        stats[Stat.MAX], largest = z.max(1)
        stats[Stat.ARGMAX] = largest + start
    else:
        stats[Stat.MAX] = z.amax(1)
    index, inside = _target_columns(rows, z, start)
    stats[Stat.TARGET] = torch.where(inside, z.gather(1, index).squeeze(1), 0)
    if formula.label_smoothing:
        weight = rows.class_weight
        stats[Stat.WEIGHTED] = z.sum(1) if weight is None else z @ weight[start : start + z.shape[1]].to(z.dtype)
    z.sub_(_finite(stats[Stat.MAX]).unsqueeze(1)).exp_()
    stats[Stat.SUM] = z.sum(1)
    if formula.wants_entropy:
        stats[Stat.ENERGY] = torch.xlogy(z, z).sum(1) + _finite(stats[Stat.MAX]) * stats[Stat.SUM]
    return torch.where(rows.label >= 0, stats, neutral_stats(1, z.dtype, z.device))


def _gradient_(block: _Block, stats: Tensor, rows: Rows, start: int) -> None:
    """exp(z - max) becomes the gradient. All of it happens in the block's precision; the caller rounds once."""
    e, scale, coefficients = block.work, rows.formula.scale, rows.coefficients
    e.mul_((slope_of_softmax(stats, rows) * scale / stats[Stat.SUM]).unsqueeze(1))
    if rows.formula.label_smoothing:
        share = (coefficients[Coefficient.SMOOTH] * scale).unsqueeze(1)
        weight = rows.class_weight
        e.sub_(share if weight is None else share * weight[start : start + e.shape[1]].to(e.dtype))
    index, inside = _target_columns(rows, e, start)
    e.scatter_add_(1, index, torch.where(inside, -scale * coefficients[Coefficient.HARD], 0).unsqueeze(1))
    if block.slope is not None:
        e.mul_(block.slope)
    ignored = rows.label < 0
    if e.is_cuda or bool(ignored.any()):
        e.masked_fill_(ignored.unsqueeze(1), 0)  # not by the coefficient: 0 * inf


def _target_columns(rows: Rows, z: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Column of each row's target as an index (N, 1) that is safe to use, and whether it lies in these columns at all."""
    column = rows.label - start
    inside = (rows.label >= 0) & (column >= 0) & (column < z.shape[1])
    return column.clamp(0, z.shape[1] - 1).unsqueeze(1), inside


def _finite(largest: Tensor) -> Tensor:
    """A row of -inf has no softmax here, but may have one in another part of the vocabulary."""
    return torch.where(largest == -torch.inf, 0, largest)


def _empty_stats(z: Tensor) -> Tensor:
    return z.new_empty(len(Stat), z.shape[0], dtype=torch.promote_types(z.dtype, torch.float32))
