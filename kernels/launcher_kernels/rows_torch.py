"""Rows of logits in plain PyTorch, a block of rows at a time so that all passes but the first find them in the cache."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher_kernels.formula import Coefficient, Rows, Stat, neutral_stats, slope_of_softmax, stats_of_no_class

BLOCK_BYTES = 2 * 2**20


def softmax_stats(z: Tensor, rows: Rows, start: int = 0) -> Tensor:
    """Stats (len(Stat), N) of logits (N, columns), which are left as they are."""
    precision = torch.promote_types(z.dtype, torch.float32)
    if not z.shape[1]:
        return stats_of_no_class(z.shape[0], precision, z.device)
    stats = neutral_stats(z.shape[0], precision, z.device)
    for block in _blocks(z, None, _Targets.of(z, rows, start)):
        block.exponentials_(stats)
    return _without_ignored(stats, rows)


def gradient_(z: Tensor, stats: Tensor, rows: Rows, start: int = 0, out: Tensor | None = None) -> None:
    """The gradient of the summed loss with respect to the logits, in their place or in `out`."""
    if not z.shape[1]:
        return
    for block in _blocks(z, z if out is None else out, _Targets.of(z, rows, start)):
        block.work.sub_(_finite(stats[Stat.MAX, block.where]).unsqueeze(1)).exp_()
        block.gradient_(stats)


def stats_and_gradient_(z: Tensor, rows: Rows, out: Tensor | None = None) -> Tensor:
    """Both of the above for whole rows, with one exponential for each logit."""
    stats = neutral_stats(z.shape[0], torch.promote_types(z.dtype, torch.float32), z.device)
    for block in _blocks(z, z if out is None else out, _Targets.of(z, rows, 0)):
        block.exponentials_(stats)
        block.gradient_(stats)
    return _without_ignored(stats, rows)


@dataclass(frozen=True)
class _Targets:
    """What is known of all rows before the first block: the fewer operations a block has, the smaller it can be."""

    rows: Rows
    start: int
    column: Tensor  # (N, 1), safe to use as an index
    inside: Tensor  # (N,), whether the target lies in these columns at all
    share: Tensor  # (N, 1), what the target takes from its gradient
    ignored: Tensor | None  # (N, 1), None where no row is
    weight: Tensor | None  # (columns,) class weights

    @classmethod
    def of(cls, z: Tensor, rows: Rows, start: int) -> "_Targets":
        column, ignored = rows.label - start, rows.label < 0
        inside = (column >= 0) & (column < z.shape[1]) & ~ignored
        share = torch.where(inside, -rows.formula.scale * rows.coefficients[Coefficient.HARD], 0)
        weight = rows.class_weight
        return cls(
            rows,
            start,
            column.clamp(0, z.shape[1] - 1).unsqueeze(1),
            inside,
            share.unsqueeze(1),
            ignored.unsqueeze(1) if z.is_cuda or bool(ignored.any()) else None,
            None if weight is None else weight[start : start + z.shape[1]].to(share.dtype),
        )


@dataclass
class _Block:
    """Logits of the rows `where`, scaled and capped, in at least fp32; the slope of the cap; where the gradient belongs."""

    where: slice
    work: Tensor
    slope: Tensor | None
    out: Tensor | None
    targets: _Targets

    def exponentials_(self, stats: Tensor) -> None:
        """Writes the stats of these rows; their numbers become exp(z - max)."""
        z, targets, stats = self.work, self.targets, stats[:, self.where]
        formula = targets.rows.formula
        if formula.wants_argmax:
            stats[Stat.MAX], largest = z.max(1)
            stats[Stat.ARGMAX] = largest + targets.start
        else:
            torch.amax(z, 1, out=stats[Stat.MAX])
        of_target = z.gather(1, targets.column[self.where]).squeeze(1)
        stats[Stat.TARGET] = torch.where(targets.inside[self.where], of_target, 0)
        if formula.label_smoothing:
            stats[Stat.WEIGHTED] = z.sum(1) if targets.weight is None else z @ targets.weight
        finite = _finite(stats[Stat.MAX])
        z.sub_(finite.unsqueeze(1)).exp_()
        torch.sum(z, 1, out=stats[Stat.SUM])
        if formula.wants_entropy:
            stats[Stat.ENERGY] = torch.xlogy(z, z).sum(1) + finite * stats[Stat.SUM]

    def gradient_(self, stats: Tensor) -> None:
        """exp(z - max) becomes the gradient, all of it in the block's precision, and is rounded once into `out`."""
        e, targets, rows = self.work, self.targets, self.targets.rows[self.where]
        scale = rows.formula.scale
        e.mul_((slope_of_softmax(stats[:, self.where], rows) * scale / stats[Stat.SUM, self.where]).unsqueeze(1))
        if rows.formula.label_smoothing:
            share = (rows.coefficients[Coefficient.SMOOTH] * scale).unsqueeze(1)
            e.sub_(share if targets.weight is None else share * targets.weight)
        e.scatter_add_(1, targets.column[self.where], targets.share[self.where])
        if self.slope is not None:
            e.mul_(self.slope)
        if targets.ignored is not None:
            e.masked_fill_(targets.ignored[self.where], 0)  # not by the coefficient: 0 * inf
        if e.data_ptr() != self.out.data_ptr():
            self.out.copy_(e)


def _blocks(z: Tensor, out: Tensor | None, targets: _Targets) -> Iterator[_Block]:
    """All rows, block by block. Work is done in `out` where that is given and precise enough, else in a buffer of one block."""
    formula, dtype = targets.rows.formula, torch.promote_types(z.dtype, torch.float32)
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
        of_cap = None if slope is None else _cap_(work, slope[: len(part)], formula.softcap)
        yield _Block(where, work, of_cap, None if out is None else out[where], targets)


def _cap_(work: Tensor, slope: Tensor, softcap: float) -> Tensor:
    work.div_(softcap).tanh_()
    torch.mul(work, work, out=slope)
    work.mul_(softcap)
    return slope.neg_().add_(1)


def _finite(largest: Tensor) -> Tensor:
    """A row of -inf has no softmax here, but may have one in another part of the vocabulary."""
    return torch.where(largest == -torch.inf, 0, largest)


def _without_ignored(stats: Tensor, rows: Rows) -> Tensor:
    return torch.where(rows.label >= 0, stats, neutral_stats(1, stats.dtype, stats.device))
