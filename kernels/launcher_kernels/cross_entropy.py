"""Softmax cross-entropy of given logits, with the gradient made in the same pass that reads them.

The operator `launcher_kernels::cross_entropy` is a pure function, so torch.compile takes it whole; `inplace` goes past it,
because the logits are then overwritten.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from launcher_kernels import rows as row_kernels
from launcher_kernels import targets
from launcher_kernels.formula import Rows, prepare
from launcher_kernels.heads import VocabShard
from launcher_kernels.operator import Operator
from launcher_kernels.output import CrossEntropy

ARGUMENTS = """Tensor logits, Tensor target, Tensor? class_weight, Tensor? token_weight, Tensor? num_items, SymInt? divisor,
    int ignore_index, float? softcap, float scale, float label_smoothing, float z_loss, str reduction, str returns, str group_name,
    int shard_start, int shard_total, bool needs_gradient"""


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    ignore_index: int = -100,
    shift: int = 0,
    softcap: float | None = None,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    num_items: int | Tensor | None = None,
    returns: Collection[str] = (),
    vocab_shard: VocabShard | None = None,
    inplace: bool = False,
) -> CrossEntropy:
    """Cross-entropy of logits (..., V) with target (...); the options are those of `linear_cross_entropy`.

    Args:
        inplace: the logits' memory becomes that of their gradient, which saves as much again. Nobody may look at the logits
            afterwards: autograd notices where the operation before has kept them, and the graph can be gone through only once.
            Without effect where no gradient is asked for, and under torch.compile, which plans memory itself.

    Raises:
        IndexError: a target is outside [0, V) and not `ignore_index` (on a GPU: a device-side assertion).
        ValueError: shapes or names do not fit, or `inplace` logits are a leaf or not dense rows.
    """
    options = targets.arguments(
        logits.shape[:-1],
        logits.dtype,
        logits.shape[-1],
        target,
        class_weight=class_weight,
        token_weight=token_weight,
        ignore_index=ignore_index,
        shift=shift,
        softcap=softcap,
        scale=scale,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
        num_items=num_items,
        returns=returns,
        vocab_shard=vocab_shard,
    )
    needs_gradient = torch.is_grad_enabled() and logits.requires_grad
    options["needs_gradient"] = needs_gradient
    if inplace and needs_gradient and not torch.compiler.is_compiling():
        found = _InPlace.apply(_rows_of(logits), options)
    else:
        found = _operator(logits=targets.rows_of(logits), **options)
    return targets.shaped(found[: targets.NUM_RESULTS], target.shape, options)


def _rows_of(logits: Tensor) -> Tensor:
    base = logits._base if logits._is_view() else logits
    if base.is_leaf and base.requires_grad:
        raise ValueError("inplace needs logits that were computed: these are a leaf, or a view of one")
    try:
        rows = logits.view(-1, logits.shape[-1])
    except RuntimeError:
        rows = None
    if rows is None or rows.stride(1) != 1 or (rows.shape[0] > 1 and rows.stride(0) < rows.shape[1]):
        raise ValueError("inplace needs dense rows, each in memory of its own: call contiguous() on the logits")
    return rows


def _evaluate(
    logits: Tensor, target: Tensor, needs_gradient: bool, out: Tensor | None = None, **a: Any
) -> tuple[Tensor, ...]:
    """The operator: (loss, *EXTRAS, gradient, factor that the gradient lacks); an empty tensor for what there is not."""
    formula, shard = targets.formula_of(logits.shape[1], a)
    with torch.autocast(logits.device.type, enabled=False):
        targets.check_range(target, formula)
        precision = torch.promote_types(logits.dtype, torch.float32)
        rows = prepare(target, formula, a["class_weight"], a["token_weight"], precision)
        items = a["divisor"] if a["num_items"] is None else a["num_items"]
        factor = targets.Reduction(a["reduction"], items).factor(rows)
        is_late = logits.dtype == torch.float16  # 1 / N in fp16 would round most of the gradient to zero
        if not is_late:
            rows.coefficients.mul_(factor)
        z = logits if logits.stride(1) == 1 else logits.contiguous()
        gradient = logits.new_empty(0)
        if needs_gradient:
            gradient = torch.empty_like(z, memory_format=torch.contiguous_format) if out is None else out
        stats = _solve(z, rows, shard, gradient if needs_gradient else None)
        late = stats.new_empty(0)
        if is_late:  # filled on the device: to copy a number there would wait for it
            lacking = targets.of_gradients(factor)
            late = lacking.clone() if isinstance(lacking, Tensor) else stats.new_full((), lacking)
        found = targets.results(
            stats, rows, a["reduction"], a["returns"], None, target.numel(), factor if is_late else 1.0
        )
    return *found, gradient, late


def _solve(z: Tensor, rows: Rows, shard: VocabShard | None, gradient: Tensor | None) -> Tensor:
    start = 0 if shard is None else shard.start
    kernels = row_kernels.backend(z.device)
    if gradient is not None and shard is None:
        return kernels.stats_and_gradient_(z, rows, gradient)
    stats = kernels.softmax_stats(z, rows, start)
    stats = stats if shard is None else shard.merge(stats)
    if gradient is not None:
        kernels.gradient_(z, stats, rows, start, gradient)
    return stats


def _traced(
    logits: Tensor, target: Tensor, needs_gradient: bool, reduction: str, returns: str, **_: Any
) -> tuple[Tensor, ...]:
    gradient = (
        torch.empty_like(logits, memory_format=torch.contiguous_format) if needs_gradient else logits.new_empty(0)
    )
    precision = torch.promote_types(logits.dtype, torch.float32)
    late = logits.new_empty(() if logits.dtype == torch.float16 else 0, dtype=precision)
    return *targets.empty_results(logits, target.numel(), reduction, returns), gradient, late


def _set_up(ctx: Any, inputs: dict[str, Any], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[-2:], inputs["target"])
    ctx.ignore_index = inputs["ignore_index"]


def _backward(ctx: Any, grad_loss: Tensor) -> dict[str, Tensor | None]:
    gradient, late, target = ctx.saved_tensors
    factor = targets.without_ignored(grad_loss, target, ctx.ignore_index)
    factor = factor * late if late.numel() else factor
    return {"logits": targets.upstream(gradient, factor, gradient.dtype, may_overwrite=False)}


_operator = Operator(
    "launcher_kernels::cross_entropy", ARGUMENTS, targets.NUM_RESULTS + 2, _evaluate, _traced, _set_up, _backward
)


class _InPlace(torch.autograd.Function):
    """The same with the logits' own memory, which is given away in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, options: dict[str, Any]) -> tuple[Tensor, ...]:
        # detach() shares the count of changes with the logits: whoever has kept them for its own backward pass finds out.
        memory = logits.detach()
        *found, ctx.gradient, ctx.late = _evaluate(memory, out=memory, **options)
        ctx.target, ctx.ignore_index = options["target"], options["ignore_index"]
        torch.autograd.graph.increment_version(memory)  # which a Triton kernel does not do
        ctx.mark_non_differentiable(*found[1:])
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("cross_entropy has no second derivatives: do not ask for create_graph=True")
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("cross_entropy(inplace=True) can be gone through once: its memory has been given away")
        factor = targets.without_ignored(grad_loss, ctx.target, ctx.ignore_index)
        factor = factor * ctx.late if ctx.late.numel() else factor
        return targets.upstream(gradient, factor, gradient.dtype, may_overwrite=True), None
