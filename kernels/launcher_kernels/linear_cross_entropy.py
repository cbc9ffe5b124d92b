"""Cross-entropy of `x @ weight.T` in chunks of rows, with the gradients made in the forward pass.

Each chunk's logits are turned into their own gradient in place and used at once for `dx` and `dweight`, so the largest
temporary is one chunk of logits, whatever the number of rows (the idea is Mgmalek's efficient_cross_entropy, 2023).
Rows whose target is ignored are dropped before the matrix product. Not covered yet: label smoothing, class weights.
"""

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # of fp32 logits: small enough for a CPU's memory bandwidth, large enough for a good matmul


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

    Returns:
        The loss summed over the N' targets that count, a scalar of at least fp32, and the hits as an int64 scalar.

    Raises:
        IndexError: a target is outside [0, V) and not `ignore_index`.
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
    loss, correct = _Chunked.apply(x, weight, bias, target, softcap, scale)
    return loss, correct


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, target, softcap, scale):
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        accumulator = torch.promote_types(x.dtype, torch.float32)
        dx = torch.empty_like(x) if needs_x else None
        dweight = torch.zeros_like(weight, dtype=accumulator) if needs_weight else None
        dbias = torch.zeros_like(bias, dtype=accumulator) if needs_bias else None
        loss = torch.zeros((), dtype=accumulator, device=x.device)
        correct = torch.zeros((), dtype=torch.int64, device=x.device)
        chunk_rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, x.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = torch.nn.functional.linear(x[rows], weight, bias).to(accumulator)
            slope = _cap_(logits, softcap, scale)
            correct += (logits.argmax(-1) == target[rows]).sum()
            loss += _loss_and_gradient_(logits, target[rows])
            if not (needs_x or needs_weight or needs_bias):
                continue
            if slope is not None:
                logits.mul_(slope)
            if needs_bias:
                dbias += logits.sum(0)
            dlogits = logits.to(x.dtype)
            if needs_x:
                torch.mm(dlogits, weight, out=dx[rows])
            if needs_weight:
                _add_product_(dweight, dlogits.t(), x[rows])
        ctx.save_for_backward(dx, dweight, dbias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx, grad_loss, _):
        dx, dweight, dbias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if dx is None else (dx * grad_loss).to(dx.dtype),
            None if dweight is None else (dweight * grad_loss).to(weight_dtype),
            None if dbias is None else (dbias * grad_loss).to(bias_dtype),
            None,
            None,
            None,
        )


def _cap_(logits: Tensor, softcap: float | None, scale: float) -> Tensor | None:
    """Scale and cap in place; returns d(capped)/d(raw), or None where it is 1."""
    if softcap is None:
        if scale == 1.0:
            return None
        logits.mul_(scale)
        return logits.new_tensor(scale)
    logits.mul_(scale / softcap).tanh_()
    slope = (1 - logits.square()).mul_(scale)
    logits.mul_(softcap)
    return slope


def _loss_and_gradient_(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of -log softmax[target]; overwrites `logits` with softmax - onehot, in their own precision."""
    index = target.unsqueeze(1)
    logsumexp = torch.logsumexp(logits, -1, keepdim=True)
    loss = (logsumexp - logits.gather(1, index)).sum()
    logits.sub_(logsumexp).exp_()
    logits.scatter_add_(1, index, torch.full_like(index, -1, dtype=logits.dtype))
    return loss


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right without rounding the running sum to a low precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right
