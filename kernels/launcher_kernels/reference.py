"""The slow, honest twins of the kernels: plain PyTorch that holds every logit. Tests and first-batch checks compare with them.

They take the same arguments; what only says *how* to compute (`method`, `memory_budget`...) is not looked at.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from launcher_kernels.output import CrossEntropy


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
    inplace: bool = False,
) -> CrossEntropy:
    """Same results as `launcher_kernels.cross_entropy`, by autograd over the full logits. Knows no shards."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    valid = target != ignore_index
    if shift:
        target = target.roll(-shift, -1)
        token_weight = None if token_weight is None else token_weight.roll(-shift, -1)
        valid = valid.roll(-shift, -1) & (
            torch.arange(target.shape[-1], device=target.device) < target.shape[-1] - shift
        )
    label = target.where(valid, 0)
    weight = z.new_ones(z.shape[-1]) if class_weight is None else class_weight.to(z.dtype)
    importance = valid.to(z.dtype) if token_weight is None else token_weight.to(z.dtype) * valid

    lse = z.logsumexp(-1)
    nll = weight[label] * (lse - z.gather(-1, label.unsqueeze(-1)).squeeze(-1))
    smooth = (weight * (lse.unsqueeze(-1) - z)).mean(-1)
    squared = z_loss * lse.square()
    one_row = (1 - label_smoothing) * nll + squared
    if label_smoothing:  # 0 * inf, where a logit is -inf
        one_row = one_row + label_smoothing * smooth
    rows = torch.where(valid, importance * one_row, 0)

    mean_of = (importance * weight[label]).sum() if reduction == "mean" else 1
    denominator = mean_of if num_items is None else num_items
    loss = rows if reduction == "none" else rows.sum() / denominator
    p = (z.detach() - lse.detach().unsqueeze(-1)).exp()
    extras = {
        "correct": ((z.argmax(-1) == target) & valid).sum(),
        "argmax": z.argmax(-1).where(valid, -1),
        "entropy": (lse - torch.where(p > 0, p * z, 0).sum(-1)).detach().where(valid, 0),
        "logsumexp": lse.detach().where(valid, 0),
        "z_loss": (torch.where(valid, importance * squared, 0).sum() / denominator).detach(),
    }
    return CrossEntropy(loss, **{name: extras[name] for name in returns})


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    lora: tuple[Tensor, Tensor, float] | None = None,
    lora_input: Tensor | None = None,
    n_valid: int | None = None,
    method: str = "auto",
    accumulate_dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
    **options: Any,
) -> CrossEntropy:
    """Same results as `launcher_kernels.linear_cross_entropy`, by autograd over the full logits. Knows no slices and no shards.

    The product has the dtype of `x`; LoRA's update is added in that dtype, too.
    """
    logits = torch.nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    if lora is not None:
        a, b, lora_scale = lora
        source = x if lora_input is None else lora_input
        logits = logits + lora_scale * (source.to(x.dtype) @ a.to(x.dtype).t()) @ b.to(x.dtype).t()
    return cross_entropy(logits, target, **options)
