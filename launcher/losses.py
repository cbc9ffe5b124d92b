"""The one door to the loss kernels: language-model loss from hidden states, as a sum and the number of hits.

`fused` never holds all logits (launcher_kernels); `torch` asks the model for its logits and is right for any head.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from launcher.heads import Head, Slices
from launcher.shards import Whole

try:
    import launcher_kernels
except ModuleNotFoundError:  # a checkout that is not installed: the source root lies beside the package
    sys.path.append(str(Path(__file__).parent.parent / "kernels"))
    import launcher_kernels


IGNORED = -100  # the label of a position that no loss looks at


class Loss(NamedTuple):
    """What an Objective returns. Nobody averages averages, so each term is a sum with its own count.

    `terms`: name -> (sum over the batch's items, number of items, weight); `metrics`: name -> (sum, count), not differentiated.
    `outputs`: in eval mode, what predictions are made of. A tuple of dicts, because DeepSpeed looks for the tensors in what a
    module returns.
    """

    terms: dict[str, tuple[Tensor, Tensor | float, float]]
    metrics: dict[str, tuple[Tensor, Tensor | float]]
    outputs: dict[str, Tensor] | None = None


def from_hidden(
    hidden: Tensor, head: Head, labels: Tensor, num_labels: int | None = None, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Fused loss. hidden (..., H); labels (...,) already shifted, -100 ignored. Returns (loss sum in at least fp32, hits).

    `num_labels`, the number of labels that are not ignored, saves waiting for the device where it is known. `label_smoothing`: as
    in `from_logits`.
    """
    x = _input(hidden, head)
    with Whole(head.tensors().values()) as whole:
        update, update_input = _update(head, x)
        result = launcher_kernels.linear_cross_entropy(
            x,
            _sliced(head.weight) if isinstance(head.weight, Slices) else head.weight,
            labels.to(x.device),
            bias=head.bias,
            lora=update,
            lora_input=update_input,
            ignore_index=IGNORED,
            softcap=head.softcap,
            scale=head.scale,
            label_smoothing=label_smoothing,
            reduction="sum",
            n_valid=num_labels,
            returns=("correct",),
        )
    whole.again(result.loss, x)
    return result.loss, result.correct


def logits_of(hidden: Tensor, head: Head) -> Tensor:
    """The logits that `from_hidden` takes the loss of, without LoRA's dropout; hidden (..., H) -> (..., V)."""
    x = _input(hidden, head)
    with Whole(head.tensors().values()):
        weight = head.weight.read(0, head.weight.shape[0]) if isinstance(head.weight, Slices) else head.weight
        logits = nn.functional.linear(x, weight.to(x.dtype), None if head.bias is None else head.bias.to(x.dtype))
        if update := _update(head, x)[0]:
            a, b, scale = update
            logits = logits + scale * nn.functional.linear(nn.functional.linear(x, a.to(x.dtype)), b.to(x.dtype))
    logits = logits * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def way(
    head: Head, num_rows: int, dtype: torch.dtype, weight_dtype: torch.dtype, device: str, smooths: bool = False
) -> launcher_kernels.Choice:
    """How the fused loss will go through the vocabulary for so many positions with a label, and why."""
    vocabulary, hidden = head.weight.shape
    others = (tensor for name, tensor in head.tensors().items() if name != "weight")
    return launcher_kernels.choose(
        num_rows,
        hidden,
        vocabulary,
        dtype=dtype,
        device=device,
        trains_weight=head.weight.requires_grad,
        weight_dtype=weight_dtype,
        trains_head_otherwise=any(tensor.requires_grad for tensor in others),
        has_only_slices=isinstance(head.weight, Slices),
        smooths=smooths,
    )


def from_logits(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Plain loss. logits (..., V), labels (...,) already shifted, -100 ignored. Returns (loss sum in at least fp32, hits).

    `label_smoothing`: share of the target that is spread evenly over all V (Szegedy et al., arXiv:1512.00567).
    """
    flat, target = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    how: Any = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": label_smoothing}
    loss = nn.functional.cross_entropy(flat, target, **how)
    return loss, ((flat.argmax(-1) == target) & (target != IGNORED)).sum()


def _update(head: Head, x: Tensor) -> tuple[tuple[Tensor, Tensor, float] | None, Tensor | None]:
    """A (r, H), B (V, r), their factor, and the input of A where it is not x. Trained rows are an update, too: A is what they
    differ from the weight's by, B puts each product where it belongs."""
    if head.lora:
        return (head.lora.a, head.lora.b, head.lora.scale), head.lora.dropout(x)
    if head.rows is None:
        return None, None
    assert isinstance(head.weight, Tensor)
    numbers = torch.tensor(head.rows.numbers, device=head.weight.device)
    values = head.rows.values
    places = values.new_zeros(head.weight.shape[0], len(numbers))
    places[numbers, torch.arange(len(numbers), device=numbers.device)] = 1
    return (values - head.weight.detach()[numbers].to(values.dtype), places, 1.0), None


def _input(hidden: Tensor, head: Head) -> Tensor:
    """Hidden states where the head is, in the precision that its own product would have."""
    device = head.weight.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        dtype = hidden.dtype if isinstance(head.weight, Slices) else head.weight.dtype
    return hidden.to(device, dtype)


def _sliced(weight: Slices) -> launcher_kernels.SlicedWeight:
    return launcher_kernels.SlicedWeight(weight.shape, weight.dtype, weight.read)
