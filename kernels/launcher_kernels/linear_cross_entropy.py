"""Cross-entropy of `x @ weight.T` that never holds all logits, with the gradients made in the forward pass.

A piece of the logits becomes its own gradient in place and is used up at once, so that the largest temporary is one piece (the idea
is Mgmalek's efficient_cross_entropy, 2023). Rows whose target is ignored are left out before the matrix products. What a piece is,
says `choice`; how it is gone through, `methods`; what a row's loss is, `formula`.

The operator `launcher_kernels::linear_cross_entropy` is a pure function of tensors and numbers, so torch.compile takes it whole.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from launcher_kernels import targets
from launcher_kernels.choice import check_method, choose
from launcher_kernels.formula import prepare
from launcher_kernels.heads import SlicedWeight, VocabShard, sliced
from launcher_kernels.methods import solve
from launcher_kernels.operator import Operator
from launcher_kernels.output import CrossEntropy
from launcher_kernels.problem import HEAD, INPUTS, Problem, gradient_dtype

ARGUMENTS = """Tensor x, Tensor? weight, Tensor? bias, Tensor? low, Tensor? lora_b, Tensor target, Tensor? class_weight,
    Tensor? token_weight, Tensor? num_items, SymInt? divisor, int sliced_number, float lora_scale, int ignore_index,
    float? softcap, float scale, float label_smoothing, float z_loss, str reduction, SymInt? n_valid, str returns, str method,
    SymInt? memory_budget, ScalarType? accumulate_dtype, str group_name, int shard_start, int shard_total, bool[] needs"""


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor | SlicedWeight,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    lora: tuple[Tensor, Tensor, float] | None = None,
    lora_input: Tensor | None = None,
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
    n_valid: int | None = None,
    returns: Collection[str] = (),
    method: str = "auto",
    accumulate_dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
    vocab_shard: VocabShard | None = None,
) -> CrossEntropy:
    """Cross-entropy of the logits `x @ weight.T`, which are never all there at once.

    Args:
        x: hidden states, (..., H). Its dtype is that of the products; sums and the softmax have at least fp32, under autocast too.
        weight: output embedding, (V, H), of any floating dtype: it is cast to the products' (a copy under "chunk", slice by slice
            else), and its gradient comes back in its own dtype, unrounded for an fp32 weight beside bf16 `x`. Or a frozen
            `SlicedWeight`.
        target: class indices, (...), in [0, V) or `ignore_index`.
        bias: (V,).
        lora: A (r, H), B (V, r) and a factor s: the logits get s (x A^T) B^T on top (Hu et al., arXiv:2106.09685).
        lora_input: (..., H), what A is applied to where that is not `x` itself (dropout).
        class_weight: (V,), as `weight` of torch.nn.functional.cross_entropy. No gradient.
        token_weight: (...), a factor on the loss of each target. No gradient.
        shift: position t is compared with the target (and its token weight) at t + shift of the last dimension.
        softcap: logits become `softcap * tanh(logits / softcap)` (Gemma 2, arXiv:2408.00118, section 2).
        scale: factor on the logits, bias and LoRA included, before the cap.
        label_smoothing: e, from 0 to 1; z_loss: zeta. The loss of a row with logits z and target y is, with class weights w,
            (1 - e) w_y (lse - z_y) + e/V sum_c w_c (lse - z_c) + zeta lse^2, where lse is log sum_c exp(z_c). The first two terms
            are PyTorch's, the last is PaLM's (arXiv:2204.02311, section 5).
        reduction: "mean" divides by the sum of token weight x class weight of the targets that count, as PyTorch does; without
            any it is NaN, with gradients of zero.
        num_items: divide the sum by this, under "mean" and "sum": an int, or a tensor that is not read on the host.
        n_valid: how many targets are not ignored (once shifted), if the caller knows; then nothing waits for the device. Checked.
        returns: extras of `CrossEntropy`.
        method, memory_budget: see `choice.choose`.
        accumulate_dtype: of the sum of the head's gradient over chunks; None takes at least fp32.
        vocab_shard: the vocabulary is spread over processes; `class_weight` is whole all the same.

    Returns:
        The loss and what `returns` asked for, see `CrossEntropy`. With `reduction="none"` and a trained head the gradients are
        made in the backward pass, from the logits computed once more.

    Raises:
        IndexError: a target is outside [0, V) and not `ignore_index` (on a GPU: a device-side assertion).
        ValueError: shapes, names, numbers or the method do not fit, or `n_valid` is wrong (on a GPU: an assertion, too).
    """
    _check_shapes(x, weight, bias, lora, lora_input)
    options = targets.arguments(
        x.shape[:-1],
        x.dtype,
        weight.shape[0],
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
    with torch.autocast(x.device.type, enabled=False):
        low = None if lora is None else (x if lora_input is None else lora_input).to(x.dtype) @ lora[0].to(x.dtype).t()
    inputs = {
        "x": targets.rows_of(x),
        "weight": weight if isinstance(weight, Tensor) else None,
        "bias": bias,
        "low": None if low is None else targets.rows_of(low),
        "lora_b": None if lora is None else lora[1],
    }
    wanted = [t is not None and torch.is_grad_enabled() and t.requires_grad for t in inputs.values()]
    check_method(method, _trains_head(wanted), not isinstance(weight, Tensor))
    # A gradient from above for every row must be known before rows are summed; without such sums it can be applied later.
    at_once = reduction != "none" or not _trains_head(wanted)
    how = {
        "sliced_number": 0 if isinstance(weight, Tensor) else weight.number,
        "lora_scale": 1.0 if lora is None else float(lora[2]),
        "n_valid": n_valid,
        "method": method,
        "memory_budget": memory_budget,
        "accumulate_dtype": accumulate_dtype,
        "needs": [at_once and each for each in wanted],
    }
    found = _operator(**inputs, **options, **how)[: targets.NUM_RESULTS]
    return targets.shaped(found, target.shape, options)


def _check_shapes(
    x: Tensor,
    weight: Tensor | SlicedWeight,
    bias: Tensor | None,
    lora: tuple[Tensor, Tensor, float] | None,
    lora_input: Tensor | None,
) -> None:
    vocabulary, hidden = weight.shape if len(weight.shape) == 2 else (0, -1)
    fits = hidden == x.shape[-1] and (bias is None or bias.shape == (vocabulary,))
    if lora is not None:
        a, b, _ = lora
        fits = fits and a.shape[1:] == (hidden,) and b.shape == (vocabulary, a.shape[0])
        if isinstance(lora[2], Tensor):
            raise ValueError("the scale of LoRA gets no gradient: give a number")
    if lora_input is not None:
        fits = fits and lora is not None and lora_input.shape == x.shape
    if not fits:
        shapes = {"x": x, "weight": weight, "bias": bias, "lora_input": lora_input}
        shapes |= {} if lora is None else {"A": lora[0], "B": lora[1]}
        named = ", ".join(f"{name} {tuple(t.shape)}" for name, t in shapes.items() if t is not None)
        raise ValueError(f"shapes do not fit: {named}")


def _trains_head(needs: list[bool]) -> bool:
    """Whether a gradient is wanted that is summed over rows."""
    return any(needed for name, needed in zip(INPUTS, needs, strict=True) if name in HEAD)


def _evaluate(x: Tensor, weight: Tensor | None, target: Tensor, needs: list[bool], **a: Any) -> tuple[Tensor, ...]:
    """The operator: (loss, *EXTRAS, *gradients of INPUTS), an empty tensor for what was not asked for."""
    head = sliced(a["sliced_number"]) if weight is None else weight
    formula, shard = targets.formula_of(head.shape[0], a)
    with torch.autocast(x.device.type, enabled=False):
        targets.check_range(target, formula)
        kept = targets.kept_rows(target, formula.ignore_index, a["n_valid"])
        precision = torch.promote_types(x.dtype, torch.float32)
        some = [t if t is None or kept is None else t.index_select(0, kept) for t in (target, a["token_weight"])]
        rows = prepare(some[0], formula, a["class_weight"], some[1], precision)
        items = a["divisor"] if a["num_items"] is None else a["num_items"]
        factor = targets.Reduction(a["reduction"], items).factor(rows)
        is_late = x.dtype == torch.float16  # 1 / N in fp16 logits' gradients would round most of them to zero
        if not is_late:
            rows.coefficients.mul_(factor)
        problem = Problem(
            x=x,
            weight=head,
            rows=rows,
            kept=kept,
            shard=shard,
            needs=frozenset(name for name, needed in zip(INPUTS, needs, strict=True) if needed),
            **{name: a[name] for name in ("bias", "low", "lora_b", "lora_scale", "accumulate_dtype")},
        )
        choice = choose(
            problem.num_rows,
            x.shape[1],
            head.shape[0] if shard is None else shard.usual_size,
            dtype=x.dtype,
            weight_dtype=head.dtype,
            device=x.device.type,
            trains_weight=needs[1],
            trains_head_otherwise=_trains_head([needs[0], False, *needs[2:]]),
            has_only_slices=weight is None,
            smooths=formula.label_smoothing > 0,
            drops_rows=kept is not None,
            method=a["method"],
            memory_budget=a["memory_budget"],
        )
        stats, gradients = solve(problem, choice)
        late = factor if is_late or not problem.num_rows else 1.0
        found = targets.results(stats, rows, a["reduction"], a["returns"], kept, target.numel(), late)
        return *found, *(_finished(name, a | {"x": x, "weight": weight}, gradients, late) for name in INPUTS)


def _finished(name: str, inputs: dict[str, Any], gradients: dict[str, Tensor], late: Tensor | float) -> Tensor:
    gradient = gradients.get(name)
    if gradient is None:
        return inputs["x"].new_empty(0)
    if isinstance(late, Tensor) or late != 1:
        gradient.mul_(targets.of_gradients(late))
    return gradient.to(gradient_dtype(inputs[name].dtype))


def _traced(x: Tensor, target: Tensor, needs: list[bool], reduction: str, returns: str, **a: Any) -> tuple[Tensor, ...]:
    inputs = a | {"x": x}
    gradients = [
        torch.empty_like(inputs[name], dtype=gradient_dtype(inputs[name].dtype), memory_format=torch.contiguous_format)
        if needed
        else x.new_empty(0)
        for name, needed in zip(INPUTS, needs, strict=True)
    ]
    return *targets.empty_results(x, target.numel(), reduction, returns), *gradients


def _set_up(ctx: Any, inputs: dict[str, Any], output: tuple[Tensor, ...]) -> None:
    ctx.gradients = list(output[targets.NUM_RESULTS :]) if any(inputs["needs"]) else None
    ctx.names = [name for name, value in inputs.items() if isinstance(value, Tensor)]
    ctx.save_for_backward(*(inputs[name] for name in ctx.names), inputs["target"])
    ctx.others = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    ctx.head = sliced(inputs["sliced_number"]) if inputs["sliced_number"] else None  # lives as long as the graph
    ctx.dtypes = {name: inputs[name].dtype for name in INPUTS if inputs[name] is not None}


def _backward(ctx: Any, grad_loss: Tensor) -> dict[str, Tensor | None]:
    """The gradients made in the forward pass, times the one from above, in place: they are given away and not kept a second time.

    Whoever goes through the graph again (retain_graph) pays for making them again.
    """
    wanted = [_operator.wants(ctx, name) for name in INPUTS]
    gradients, ctx.gradients = ctx.gradients, None
    *saved, target = ctx.saved_tensors
    factor: Tensor | None = targets.without_ignored(grad_loss, target, ctx.others["ignore_index"])
    if gradients is None:
        inputs = ctx.others | dict(zip(ctx.names, saved, strict=True)) | {"needs": wanted, "returns": ""}
        if inputs["reduction"] == "none":
            weight = inputs["token_weight"]
            inputs |= {"reduction": "sum", "token_weight": grad_loss if weight is None else grad_loss * weight}
            factor = None
        gradients = _operator(**inputs)[targets.NUM_RESULTS :]
    return {
        name: targets.upstream(gradient, factor, ctx.dtypes[name], may_overwrite=True)
        for name, gradient, needed in zip(INPUTS, gradients, wanted, strict=True)
        if needed
    }


_operator = Operator(
    "launcher_kernels::linear_cross_entropy",
    ARGUMENTS,
    targets.NUM_RESULTS + len(INPUTS),
    _evaluate,
    _traced,
    _set_up,
    _backward,
)
