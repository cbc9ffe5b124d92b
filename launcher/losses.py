"""The one door to the loss kernels: language-model loss from hidden states, as a sum and the number of hits.

`fused` never holds all logits (launcher_kernels); `torch` asks the model for its logits and is right for any head.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

try:
    from launcher_kernels import linear_cross_entropy
except ModuleNotFoundError:  # a checkout that is not installed: the source root lies beside the package
    sys.path.append(str(Path(__file__).parent.parent / "kernels"))
    from launcher_kernels import linear_cross_entropy


IGNORED = -100  # the label of a position that no loss looks at


@dataclass(frozen=True)
class Loss:
    """What an Objective returns. Nobody averages averages, so each term is a sum with its own count.

    `terms`: name -> (sum over the batch's items, number of items, weight); `metrics`: name -> (sum, count), not differentiated.
    """

    terms: dict[str, tuple[Tensor, Tensor | int, float]]
    metrics: dict[str, tuple[Tensor, Tensor | int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """An output embedding as the fused loss needs it: the module, and what happens to its logits."""

    linear: nn.Linear
    softcap: float | None = None
    scale: float = 1.0


def resolve_head(model: Any) -> tuple[Head | None, str]:
    """The head of a Hugging Face causal model (PEFT unwrapped), or None with the reason why the fused loss cannot use it."""
    if model.base_model is model:
        return None, f"{type(model).__name__} names no decoder below its head"
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        return None, f"the output head is a {type(linear).__name__}, not a plain linear layer"
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear, getattr(config, "final_logit_softcapping", None), scale), "plain linear head"


def from_hidden(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Fused loss. hidden (..., H); labels (...,) already shifted, -100 ignored. Returns (loss sum in at least fp32, hits)."""
    weight, bias = head.linear.weight, head.linear.bias
    dtype = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else weight.dtype
    )
    return linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]).to(dtype),
        weight.to(dtype),
        labels.reshape(-1),
        bias=None if bias is None else bias.to(dtype),
        ignore_index=IGNORED,
        softcap=head.softcap,
        scale=head.scale,
    )


def logits_of(hidden: Tensor, head: Head) -> Tensor:
    """The logits that `from_hidden` takes the loss of; hidden (..., H) -> (..., V)."""
    logits = (
        nn.functional.linear(hidden.to(head.linear.weight.dtype), head.linear.weight, head.linear.bias) * head.scale
    )
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def from_logits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Plain loss. logits (..., V), labels (...,) already shifted, -100 ignored. Returns (loss sum in at least fp32, hits)."""
    flat, target = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    loss = nn.functional.cross_entropy(flat, target, ignore_index=IGNORED, reduction="sum")
    return loss, ((flat.argmax(-1) == target) & (target != IGNORED)).sum()
