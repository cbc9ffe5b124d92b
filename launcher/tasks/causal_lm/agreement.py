"""How far the fused loss is from the model's own head: on logits, on the loss, and on every gradient that it makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from launcher import losses
from launcher.heads import Head

# A gradient is a difference of probabilities, each off by as much as its logit is: by 0.05 for a logit of 25 in bf16.
GRADIENT_SLACK = 5


@dataclass(frozen=True)
class Distance:
    """Differences relative to what the model's own head gives, of gradients by name."""

    logits: float
    loss: float
    gradients: dict[str, float]

    def __str__(self) -> str:
        gradients = ", ".join(f"{name} {off:.0e}" for name, off in self.gradients.items())
        return f"logits differ by {self.logits:.0e}, the loss by {self.loss:.0e}, gradients by {gradients}"

    def within(self, tolerance: float) -> bool:
        """False for NaN, too."""
        gradients_fit = all(off <= GRADIENT_SLACK * tolerance for off in self.gradients.values())
        return self.logits <= tolerance and self.loss <= tolerance and gradients_fit


def measure(objective: Any, head: Head, inputs: dict[str, Tensor]) -> Distance:
    """The head as a formula on what the decoder says, against the model's own forward pass. No dropout may be active.

    The logits are compared because those of an untrained model are so flat that a wrong scale hardly moves the loss. Labels are
    of its own, since a prompt may be longer than the probe. Nothing is left in any `.grad`.
    """
    labels = inputs["input_ids"].roll(-1, 1)
    trained = {name: tensor for name, tensor in head.tensors().items() if tensor.requires_grad}
    with _cut_below(objective.head_module()) as below:
        own_logits = objective.logits(**inputs)
        own_loss, _ = losses.from_logits(own_logits, labels)
    if len(below) != 1 or not own_loss.requires_grad:
        return Distance(inf, inf, {})  # whatever made these logits, it was not this head
    own = torch.autograd.grad(own_loss, [*below, *trained.values()], allow_unused=True)
    with torch.no_grad():
        hidden = objective.hidden_states(**inputs)
        logits = losses.logits_of(hidden, head)
    with torch.enable_grad():
        loss, _ = losses.from_hidden(hidden.requires_grad_(), head, labels)
    ours = torch.autograd.grad(loss, [hidden, *trained.values()], allow_unused=True)
    gradients = {name: _off(a, b) for name, a, b in zip(["hidden", *trained], ours, own, strict=True)}
    return Distance(_off(logits, own_logits), _off(loss, own_loss), gradients)


@contextmanager
def _cut_below(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what goes into the head, as leaves; what lies below keeps no graph."""
    leaves: list[Tensor] = []

    def cut(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        torch.set_grad_enabled(True)  # until the end of no_grad below
        leaves.append(args[0].detach().requires_grad_())
        return leaves[-1], *args[1:]

    hook = module.register_forward_pre_hook(cut)
    try:
        with torch.no_grad():
            yield leaves
    finally:
        hook.remove()


def _off(ours: Tensor | None, own: Tensor | None) -> float:
    """Norm of the difference, relative to the norm of `own`. Where that is zero (LoRA's A at the start), ours must be, too."""
    if ours is None or own is None:
        present = own if ours is None else ours
        return 0.0 if present is None or not present.any() else inf
    precise = torch.promote_types(own.dtype, torch.float32)
    ours, own = ours.detach().to(own.device, precise), own.detach().to(precise)
    difference, size = float((ours - own).norm()), float(own.norm())
    return 0.0 if difference == 0 else difference / size if size else inf
