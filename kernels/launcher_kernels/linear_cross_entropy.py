"""Cross-entropy of `x @ weight.T` in chunks of rows, with the gradients made in the forward pass.

Each chunk's logits are turned into their own gradient in place and used at once for `dx` and `dweight`, so the largest
temporary is one chunk of logits, whatever the number of rows (the idea is Mgmalek's efficient_cross_entropy, 2023). All chunks
share one buffer: fresh memory of this size costs a CPU more time than the arithmetic on it.
Rows whose target is ignored are dropped before the matrix product. Not covered yet: label smoothing, class weights.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = (
    64 * 2**20
)  # of fp32 logits: each chunk also reads and writes the whole of dweight, so it must not be small


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Sum of cross-entropies, and how many arg-maxima hit the target.

    Args:
        x: hidden states, shape (N, H).
        weight: output embedding, shape (V, H), same dtype as `x`.
        target: class indices, shape (N,), int64 in [0, V) or `ignore_index`.
        bias: shape (V,) or None.
        softcap: logits become `softcap * tanh(logits / softcap)` (Gemma 2, arXiv:2408.00118, section 2).
        scale: factor on the logits before the cap.

    The arithmetic has the dtype of `x` with sums in at least fp32, under autocast too.

    Returns:
        The loss summed over the N' targets that count, a scalar of at least fp32, and the hits as an int64 scalar.

    Raises:
        IndexError: a target is outside [0, V) and not `ignore_index`.
        ValueError: the shapes do not fit.
    """
    if x.ndim != 2 or weight.ndim != 2 or target.shape != x.shape[:1] or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"shapes do not fit: x {tuple(x.shape)}, weight {tuple(weight.shape)}, target {tuple(target.shape)}"
        )
    rows = (target != ignore_index).nonzero().squeeze(1)
    if rows.numel() < target.numel():
        x, target = x.index_select(0, rows), target.index_select(0, rows)
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < weight.shape[0]:
        raise IndexError(
            f"a target lies outside the vocabulary of {weight.shape[0]} (or is not ignore_index {ignore_index})"
        )
    loss, correct = _Chunked.apply(x, weight, bias, target, softcap, scale, torch.is_grad_enabled())
    return loss, correct


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, target, softcap, scale, grad_enabled):
        # needs_input_grad is true for a trained weight under no_grad too, and in here gradients are always off.
        needs_x, needs_weight, needs_bias = (grad_enabled and needs for needs in ctx.needs_input_grad[:3])
        accumulator = torch.promote_types(x.dtype, torch.float32)
        dx = torch.empty_like(x) if needs_x else None
        dweight = torch.zeros_like(weight, dtype=accumulator) if needs_weight else None
        dbias = torch.zeros_like(bias, dtype=accumulator) if needs_bias else None
        loss = torch.zeros((), dtype=accumulator, device=x.device)
        correct = torch.zeros((), dtype=torch.int64, device=x.device)
        buffers = _Buffers(x, weight, accumulator, with_slope=softcap is not None)
        for start in range(0, x.shape[0], buffers.num_rows):
            rows = slice(start, start + buffers.num_rows)
            raw, logits, slope = buffers.take(x[rows].shape[0])
            _affine_(raw, x[rows], weight, bias, scale)
            if logits is not raw:
                logits.copy_(raw)
            if softcap is not None:
                _cap_(logits, slope, softcap)
            correct += (logits.argmax(-1) == target[rows]).sum()
            loss += _loss_and_gradient_(logits, target[rows])
            if not (needs_x or needs_weight or needs_bias):
                continue
            if softcap is not None:
                logits.mul_(slope)
            if needs_bias:
                dbias.add_(logits.sum(0), alpha=scale)
            if logits is not raw:
                raw.copy_(logits)
            if needs_x:
                torch.addmm(dx[rows], raw, weight, beta=0, alpha=scale, out=dx[rows])
            if needs_weight:
                _add_product_(dweight, raw.t(), x[rows], scale)
        ctx.save_for_backward(dx, dweight, dbias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _):
        dx, dweight, dbias = ctx.saved_tensors  # may be asked for again (retain_graph), so they are not scaled in place
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if dx is None else (dx * grad_loss).to(dx.dtype),
            None if dweight is None else (dweight * grad_loss).to(weight_dtype),
            None if dbias is None else (dbias * grad_loss).to(bias_dtype),
            *(None,) * 4,
        )


class _Buffers:
    """Memory for one chunk: logits as the product gives them, logits for sums (the same if precise enough), slope of the cap."""

    def __init__(self, x: Tensor, weight: Tensor, accumulator: torch.dtype, with_slope: bool):
        vocabulary = weight.shape[0]
        self.num_rows = max(1, min(x.shape[0], CHUNK_BYTES // (4 * vocabulary)))
        self._raw = x.new_empty(self.num_rows, vocabulary)
        self._logits = self._raw if x.dtype == accumulator else torch.empty_like(self._raw, dtype=accumulator)
        self._slope = torch.empty_like(self._logits) if with_slope else None

    def take(self, num_rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
        raw = self._raw[:num_rows]
        logits = raw if self._logits is self._raw else self._logits[:num_rows]
        return raw, logits, None if self._slope is None else self._slope[:num_rows]


def _affine_(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> None:
    """out = scale * (x @ weight.T + bias). As part of the product, here and in the gradients, the factor costs no pass."""
    if bias is None:
        torch.addmm(out, x, weight.t(), beta=0, alpha=scale, out=out)
    else:
        torch.addmm(bias, x, weight.t(), beta=scale, alpha=scale, out=out)


def _cap_(logits: Tensor, slope: Tensor, softcap: float) -> None:
    """Cap in place; `slope` receives d(capped)/d(logits)."""
    logits.div_(softcap).tanh_()
    torch.mul(logits, logits, out=slope)
    slope.neg_().add_(1)
    logits.mul_(softcap)


def _loss_and_gradient_(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of -log softmax[target]; overwrites `logits` with softmax - onehot, in their own precision."""
    index = target.unsqueeze(1)
    torch.log_softmax(
        logits, -1, out=logits
    )  # in place: the kernel reads an element for the last time when it writes it
    log_probability = logits.gather(1, index)
    logits.exp_()
    logits.scatter_(1, index, log_probability.expm1())
    return -log_probability.sum()


def _add_product_(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """total += scale * left @ right without rounding the running sum to a low precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    elif total.is_cuda:
        torch.addmm(total, left, right, alpha=scale, out_dtype=total.dtype, out=total)
    else:
        total.add_(left @ right, alpha=scale)
