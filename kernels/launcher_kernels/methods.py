"""The three ways through the vocabulary (see `choice`). Each returns the stats of all rows and the gradients asked for."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from launcher_kernels import rows as row_kernels
from launcher_kernels.choice import Choice, pieces
from launcher_kernels.formula import Coefficient, Rows, Stat, merge, neutral_stats, slope_of_softmax, stats_of_no_class
from launcher_kernels.gradients import Gradients, add_product
from launcher_kernels.problem import Logits, Problem, affine, logits_buffer

# Stats (len(Stat), N') over the whole vocabulary, and the gradients of the summed loss by name.
Solution = tuple[Tensor, dict[str, Tensor]]


def solve(p: Problem, choice: Choice) -> Solution:
    return METHODS[choice.method](p, choice)


def _chunk(p: Problem, choice: Choice) -> Solution:
    kernels = row_kernels.backend(p.x.device)
    weight, head = p.weight[:].to(p.compute), Logits(p)
    buffer = logits_buffer(p, min(choice.rows, p.num_rows), weight.shape[0])
    stats = neutral_stats(p.num_rows, p.precision, p.x.device)
    into = Gradients(p, is_final=choice.rows >= p.num_rows)
    for piece in pieces(p.num_rows, choice.rows):
        x, low, rows = p.some(p.x, piece), p.some(p.low, piece), p.rows[piece]
        z = head.into(buffer[: x.shape[0], : weight.shape[0]], x, low, weight, slice(None))
        if p.needs and p.shard is None:
            stats[:, piece] = kernels.stats_and_gradient_(z, rows)
        else:
            part = kernels.softmax_stats(z, rows, p.start)
            stats[:, piece] = part if p.shard is None else p.shard.merge(part)
            if p.needs:
                kernels.gradient_(z, stats[:, piece], rows, p.start)
        into.add_rows(piece, z, x, low, weight)
    return stats, into.finish()


def _recompute(p: Problem, choice: Choice) -> Solution:
    kernels = row_kernels.backend(p.x.device)
    head, everything = Logits(p), slice(0, p.num_rows)
    x, low = p.some(p.x, everything), p.some(p.low, everything)
    buffer = logits_buffer(p, p.num_rows, choice.columns)

    def logits(columns: slice) -> tuple[Tensor, Tensor]:
        weight = p.weight[columns].to(p.compute)
        return head.into(buffer[:, : weight.shape[0]], x, low, weight, columns), weight

    stats = _stats_by_slices(p, choice, lambda columns: logits(columns)[0])
    if not p.needs:
        return stats, {}
    into = Gradients(p, is_final=True)
    for columns in pieces(p.weight.shape[0], choice.columns):
        z, weight = logits(columns)
        kernels.gradient_(z, stats, p.rows, p.start + columns.start)
        into.add_columns(columns, z, x, low, weight)
    return stats, into.finish()


def _stats_by_slices(p: Problem, choice: Choice, logits: Callable[[slice], Tensor]) -> Tensor:
    kernels = row_kernels.backend(p.x.device)
    stats = stats_of_no_class(p.num_rows, p.precision, p.x.device)
    for columns in pieces(p.weight.shape[0], choice.columns):
        part = kernels.softmax_stats(logits(columns), p.rows, p.start + columns.start)
        stats = merge(torch.stack([stats, part]))
    return stats if p.shard is None else p.shard.merge(stats)


def _stream(p: Problem, choice: Choice) -> Solution:
    """One pass, as attention goes over keys and values: sums are kept relative to the largest logit so far.

    The gradient of a row is a (O / s - (1 - p_y) W_y) with O the sum over the other classes. The target is left out of O because
    p_y W_y - W_y would lose all digits where p_y is near one.
    """
    kernels = row_kernels.backend(p.x.device)
    whole = slice(0, p.num_rows)
    x, low = p.some(p.x, whole), p.some(p.low, whole)
    x = x if low is None else torch.cat([x, low], 1)  # LoRA's factors are more columns of x and of the weight
    bias = None if p.bias is None else p.bias.to(p.compute)
    buffer = logits_buffer(p, p.num_rows, choice.columns)
    others = torch.zeros_like(x, dtype=p.precision)
    smooth = torch.zeros_like(others) if p.rows.formula.label_smoothing else None
    of_target, stats = torch.zeros_like(x), stats_of_no_class(p.num_rows, p.precision, x.device)
    for columns in pieces(p.weight.shape[0], choice.columns):
        weight, start = p.weight[columns].to(p.compute), p.start + columns.start
        if low is not None:
            weight = torch.cat([weight, p.lora_b[columns].to(p.compute) * p.lora_scale], 1)
        z = buffer[:, : weight.shape[0]]
        affine(z, x, weight, None if bias is None else bias[columns])
        before, part = stats, kernels.softmax_stats(z, p.rows, start)
        stats = merge(torch.stack([before, part]))
        if not p.needs:
            continue
        if smooth is not None:
            flat = z.clone()
            kernels.gradient_(flat, stats, _with(p.rows, TOTAL=0, HARD=0, SMOOTH=-1), start)
            add_product(smooth, flat, weight)
        others.mul_(_relative(before[Stat.MAX], stats).unsqueeze(1))
        e_target = _relative(part[Stat.TARGET], stats)
        kernels.gradient_(z, _with_sum_one(stats), _with(p.rows, TOTAL=1, HARD=e_target, SMOOTH=0), start)
        add_product(others, z, weight)
        at = p.rows.label - start
        inside = ((at >= 0) & (at < weight.shape[0])).unsqueeze(1)
        of_target = torch.where(inside, weight[at.clamp(0, weight.shape[0] - 1)], of_target)
    local, stats = stats, stats if p.shard is None else p.shard.merge(stats)
    if not p.needs:
        return stats, {}
    others.mul_(_relative(local[Stat.MAX], stats).unsqueeze(1))
    gradient = _put_together(p.rows, stats, others, of_target, smooth)
    into = Gradients(p, is_final=True)
    into.sums = {"x": gradient[:, : p.x.shape[1]], "low": gradient[:, p.x.shape[1] :]}
    return stats, into.finish()


def _put_together(rows: Rows, stats: Tensor, others: Tensor, of_target: Tensor, smooth: Tensor | None) -> Tensor:
    formula, coefficients = rows.formula, rows.coefficients
    share = slope_of_softmax(stats, rows)
    p_target = _relative(stats[Stat.TARGET], stats) / stats[Stat.SUM]
    slope = (
        formula.scale if formula.softcap is None else formula.scale * (1 - (stats[Stat.TARGET] / formula.softcap) ** 2)
    )
    target = (share * p_target - coefficients[Coefficient.HARD]) * slope
    gradient = others.mul_((share / stats[Stat.SUM]).unsqueeze(1)).add_(of_target * target.unsqueeze(1))
    if smooth is not None:
        gradient.sub_(smooth * coefficients[Coefficient.SMOOTH].unsqueeze(1))
    return gradient


def _relative(logits: Tensor, stats: Tensor) -> Tensor:
    """exp(logits - max), where a maximum of -inf (nothing seen yet) counts as 0."""
    return (logits - torch.where(stats[Stat.MAX] == -torch.inf, 0, stats[Stat.MAX])).exp()


def _with(rows: Rows, **values: Tensor | float) -> Rows:
    """The same rows with other coefficients, zero where none is given."""
    coefficients = torch.zeros_like(rows.coefficients)
    for name, value in values.items():
        coefficients[Coefficient[name]] = value
    formula = replace(rows.formula, z_loss=0.0)  # not by the coefficient: 0 * inf
    return Rows(rows.label, coefficients, rows.class_weight, formula)


def _with_sum_one(stats: Tensor) -> Tensor:
    relative = stats.clone()
    relative[Stat.SUM] = 1
    return relative


METHODS = {"chunk": _chunk, "recompute": _recompute, "stream": _stream}
