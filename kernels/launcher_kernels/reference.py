"""The slow, honest twins of the kernels: plain PyTorch that holds every logit. Tests and first-batch checks compare with them."""

import torch
from torch import Tensor


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
    """Same signature and results as `launcher_kernels.linear_cross_entropy`, by autograd over the full logits."""
    logits = torch.nn.functional.linear(x, weight, bias) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    loss = torch.nn.functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), target, ignore_index=ignore_index, reduction="sum"
    )
    correct = ((logits.argmax(-1) == target) & (target != ignore_index)).sum()
    return loss, correct
