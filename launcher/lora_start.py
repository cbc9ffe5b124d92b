"""Where LoRA starts when A and B are made from the base weight W: PiSSA, OLoRA, LoftQ.

PiSSA and OLoRA move a part s B0 A0 of W into the adapter: W - s B0 A0 is frozen, A and B start at A0 and B0. Here W stays as it
is on disk and the layer computes W x + s (B A x - B0 A0 x): the same function, without rounding W once more, and before the
first step exactly the base. Written out it is a plain LoRA of rank 2r with A' = [A; A0] and B' = [B, -B0] against the base as
everybody has it (`fold`). A checkpoint keeps A0 and B0, so a resumed run does not depend on a second decomposition.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from launcher.errors import RecipeError
from launcher.shards import Whole

ADAPTER = "default"
Factors = tuple[Tensor, Tensor]  # A (r, in), B (out, r)


class Start(nn.Module):
    """A0 (r, in) and B0 (out, r), frozen. Buffers, so that no wrapper trains or shards them."""

    def __init__(self, a: Tensor, b: Tensor):
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.a), self.b)


class FromStart(LoraVariant):
    """PEFT's place for another formula of a LoRA layer. Both products see the same dropout, as those of the folded form do."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        a, b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        x = module.lora_dropout[active_adapter](x)
        return result + (b(a(x)) - module.lora_start[active_adapter](x)) * module.scaling[active_adapter]


def begin(wrapped: Any, start: Any, original: Callable[[str], Tensor] | None) -> None:
    """Give every layer its first A and B. `start` is `init_lora_weights`; `original`: see `apply_lora`."""
    if start is True or start == "gaussian":
        return  # PEFT has done it
    if start == "loftq" and original is None:
        raise RecipeError(
            "adapter.init_lora_weights loftq makes up for the rounding of a quantised base, and this one is not quantised",
            fix="use method qlora, or pissa",
        )
    for name, layer in _layers(wrapped):
        if ADAPTER not in layer.lora_A or not hasattr(
            layer.get_base_layer(), "weight"
        ):  # an embedding, or fused experts
            raise RecipeError(
                f"adapter.init_lora_weights {start} fits linear layers, not a {type(layer.get_base_layer()).__name__}",
                where=name,
                fix="leave it out of adapter.target_modules",
            )
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        with Whole(layer.get_base_layer().parameters(recurse=False)):
            weight = dequantize_module_weight(layer.get_base_layer()).detach().float().clone()
        weight = weight.t() if getattr(layer, "fan_in_fan_out", False) else weight
        if start == "loftq":
            assert original is not None
            weight = original(name).to(weight) - weight
        if len(a) > min(weight.shape):
            raise RecipeError(
                f"adapter.init_lora_weights {start}: rank {len(a)} is more than a {tuple(weight.shape)} weight has",
                where=name,
                fix="lower r, or give this module a lower one in rank_pattern",
            )
        for parameter, first in zip((a, b), _factors(weight, len(a), layer.scaling[ADAPTER], start), strict=True):
            parameter.data.copy_(first)
        if start != "loftq":
            layer.lora_start = nn.ModuleDict({ADAPTER: Start(a.detach().clone(), b.detach().clone())})
            layer.lora_variant[ADAPTER] = FromStart()
    wrapped.peft_config[ADAPTER].init_lora_weights = start


def fold(wrapped: Any) -> None:
    """Replace every layer that began at A0, B0 by the plain LoRA of rank 2r that it equals, and say so in the configuration."""
    config = wrapped.peft_config[ADAPTER]
    started = [layer for _, layer in _layers(wrapped) if hasattr(layer, "lora_start")]
    grown = 2**0.5 if config.use_rslora else 2.0  # of lora_alpha, so that the scaling stays
    for layer in started:
        start = layer.lora_start[ADAPTER]
        _replace(
            layer.lora_A[ADAPTER], torch.cat([layer.lora_A[ADAPTER].weight, start.a.to(layer.lora_A[ADAPTER].weight)])
        )
        _replace(
            layer.lora_B[ADAPTER],
            torch.cat([layer.lora_B[ADAPTER].weight, -start.b.to(layer.lora_B[ADAPTER].weight)], 1),
        )
        layer.r[ADAPTER] *= 2
        layer.lora_alpha[ADAPTER] *= grown
        del layer.lora_start, layer.lora_variant[ADAPTER]
    if started:
        config.r, config.lora_alpha = 2 * config.r, grown * config.lora_alpha
        config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
        config.alpha_pattern = {name: grown * alpha for name, alpha in config.alpha_pattern.items()}
    config.init_lora_weights = True  # PEFT would decompose the base of whoever loads the adapter


def _layers(wrapped: Any) -> Iterator[tuple[str, Any]]:
    """(name in the base model, LoRA layer) of every one."""
    for name, module in wrapped.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _factors(weight: Tensor, r: int, scale: float, start: str) -> Factors:
    """A (r, in) and B (out, r) whose product, times `scale`, is the part of `weight` (out, in) that the adapter takes over."""
    if start == "olora":  # arXiv:2406.01775, algorithm 1: the scale stays outside
        q, upper = torch.linalg.qr(weight)
        return upper[:r], q[:, :r]
    if start in ("pissa", "loftq"):
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        u, s, vh = u[:, :r], s[:r], vh[:r]
    else:
        u, s, v = torch.svd_lowrank(weight, r, niter=int(start.removeprefix("pissa_niter_")))
        vh = v.t()
    root = (s / scale).sqrt()
    return root[:, None] * vh, u * root


def _replace(linear: nn.Linear, weight: Tensor) -> None:
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.out_features, linear.in_features = weight.shape
