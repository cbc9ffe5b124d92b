"""What the output head of a Hugging Face causal model is, as the fused loss needs it: tensors, and what becomes of the logits.

A head is looked at anew in every forward pass, since which adapter is active can change in between. Classes are known by their
full name, so neither PEFT nor bitsandbytes is imported for a model without them; any other class, a subclass too, is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

INT8_ERROR = 3e-2  # bitsandbytes rounds the input of an 8-bit layer to 8 bits, too: 1/127 of each row's largest value


@dataclass(frozen=True)
class Slices:
    """A frozen weight of which only rows are ever whole: `read(start, stop)` gives the rows [start, stop)."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    read: Callable[[int, int], Tensor]
    requires_grad: bool = False


@dataclass(frozen=True)
class Lora:
    """An update of rank r: logits += scale * dropout(x) @ A.T @ B.T, A (r, H), B (V, r)."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: nn.Module


@dataclass(frozen=True)
class Rows:
    """Trained rows `values` (k, H) that stand for the rows `numbers` of a frozen weight."""

    numbers: tuple[int, ...]
    values: Tensor


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (x @ weight.T + bias + update)); weight (V, H), some of its rows perhaps replaced, bias (V,).

    `own_error`: how far the module's own product is off, relative to its norm, beyond the rounding of its dtype.
    """

    weight: Tensor | Slices
    bias: Tensor | None = None
    lora: Lora | None = None
    rows: Rows | None = None
    softcap: float | None = None
    scale: float = 1.0
    kind: str = "plain linear head"
    own_error: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """The head's parameters by name."""
        whole = {"weight": None if isinstance(self.weight, Slices) else self.weight, "bias": self.bias}
        update = {"lora_A": self.lora.a, "lora_B": self.lora.b} if self.lora else {}
        rows = {"rows": self.rows.values} if self.rows else {}
        return {name: tensor for name, tensor in (whole | update | rows).items() if tensor is not None}


class Refused(Exception):
    """The fused loss cannot stand in for this head; the message says why."""


def resolve(model: Any) -> tuple[Head | None, str]:
    """The head of a causal model (the one below PEFT's wrapper) as it is now and what kind it is, or None and why not."""
    if model.base_model is model:
        return None, f"{type(model).__name__} names no decoder below its head"
    try:
        head = _look(model.get_output_embeddings())
    except Refused as refusal:
        return None, str(refusal)
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    head = replace(head, softcap=getattr(config, "final_logit_softcapping", None), scale=scale)
    return head, head.kind


def _look(module: Any) -> Head:
    found = KNOWN.get(f"{type(module).__module__}.{type(module).__qualname__}")
    if found is None:
        raise Refused(f"the output head is a {type(module).__name__}, not a plain linear layer")
    return found(module)


def _linear(module: nn.Linear) -> Head:
    _refuse_offloaded(module)
    if type(module.weight) not in (Tensor, nn.Parameter):
        raise Refused(f"the output head's weight is a {type(module.weight).__name__}, not a plain tensor")
    return Head(module.weight, module.bias)


def _trained_copy(wrapper: Any) -> Head:
    """PEFT's ModulesToSaveWrapper: the original, and a trained copy for each adapter that lists the head."""
    active = wrapper.active_adapters
    if wrapper.disable_adapters or not active or any(name not in wrapper.modules_to_save for name in active):
        return _look(wrapper.original_module)
    head = _look(wrapper.modules_to_save[active[0]])
    return replace(head, kind=f"{head.kind} (the copy that adapter {active[0]} trains)")


def _trained_rows(wrapper: Any) -> Head:
    """PEFT's TrainableTokensWrapper: around a head that is tied it looks at the rows of the embedding's."""
    layer = wrapper.token_adapter
    if layer.merged:
        raise Refused("the output head has trained rows merged into it")
    head = _look(layer.base_layer)
    active = [name for name in layer.active_adapters if name in layer.trainable_tokens_delta]
    if wrapper.disable_adapters or layer.disable_adapters or not active:
        return head
    if head.bias is not None or head.lora is not None or isinstance(head.weight, Slices) or len(active) > 1:
        raise Refused(f"the output head is a {head.kind} with trained rows, which PEFT computes otherwise")
    rows = Rows(tuple(layer.token_indices[active[0]]), layer.trainable_tokens_delta[active[0]])
    return replace(head, rows=rows, kind=f"{head.kind} with {len(rows.numbers)} trained rows")


def _lora(layer: Any) -> Head:
    """PEFT's LoRA around a linear layer. Its variants (DoRA...) are other formulas."""
    if layer.merged:
        raise Refused("the output head has an adapter merged into it")
    base = _look(layer.base_layer)
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or not active:
        return base
    if len(active) > 1:
        raise Refused(f"the output head has several active adapters: {', '.join(active)}")
    return replace(base, lora=_update(layer, active[0]), kind=f"{base.kind} with LoRA (adapter {active[0]})")


def _update(layer: Any, name: str) -> Lora:
    variant = layer.lora_variant.get(name)
    if variant is not None:
        raise Refused(f"the output head's adapter {name} is no plain LoRA but a {type(variant).__name__}")
    for option, is_set in {"lora_bias": layer.lora_bias.get(name), "fan_in_fan_out": layer.fan_in_fan_out}.items():
        if is_set:
            raise Refused(f"the output head's adapter {name} has {option}")
    a, b, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    if {type(a), type(b)} != {nn.Linear} or type(dropout) not in (nn.Identity, nn.Dropout):
        raise Refused(f"the output head's adapter {name} is made of {type(a).__name__} and {type(dropout).__name__}")
    return Lora(a.weight, b.weight, float(layer.scaling[name]), dropout)


def _four_bit(module: Any) -> Head:
    """bitsandbytes' Linear4bit."""
    _refuse_offloaded(module)
    state = getattr(module.weight, "quant_state", None) or module.quant_state
    shape = (module.out_features, module.in_features)
    if state is None or tuple(state.shape) != shape:
        raise Refused("the output head is a 4-bit layer that is not quantised yet")
    if getattr(state, "packing_format_for_cpu", False):  # bitsandbytes does so on its first use without gradients
        raise Refused("the output head is a 4-bit layer that is packed for inference on a CPU")
    weight = Slices(shape, state.dtype, module.weight.device, partial(_four_bit_rows, module, state))
    return Head(weight, module.bias, kind=f"4-bit head ({state.quant_type})")


def _four_bit_rows(module: Any, state: Any, start: int, stop: int) -> Tensor:
    """Blocks of the flattened weight share a scale; with double quantisation, blocks of scales do. So cut where both begin."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    outer, width, number = state.state2, module.in_features, module.in_features * module.out_features
    unit = state.blocksize * (outer.blocksize if outer is not None else 1)
    first, last = start * width // unit * unit, min(-(-stop * width // unit) * unit, number)
    if outer is not None:
        scales = outer.absmax[first // unit : -(-last // unit)]
        outer = QuantState(absmax=scales, code=outer.code, blocksize=outer.blocksize, dtype=outer.dtype)
    part = QuantState(
        absmax=state.absmax[first // state.blocksize : -(-last // state.blocksize)],
        shape=torch.Size((last - first,)),
        code=state.code,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        dtype=state.dtype,
        offset=state.offset,
        state2=outer,
    )
    packed = module.weight.detach().reshape(-1).view(torch.uint8)[first // 2 : (last + 1) // 2]
    return dequantize_4bit(packed, part).reshape(-1)[start * width - first : stop * width - first].view(-1, width)


def _eight_bit(module: Any) -> Head:
    """bitsandbytes' Linear8bitLt: whole numbers, and a scale for each row."""
    _refuse_offloaded(module)
    if module.state.has_fp16_weights:
        raise Refused("the output head is an 8-bit layer that trains its weight")
    moved = module.state.CB is not None  # from the weight to the state, at the first use
    codes, scales = (module.state.CB, module.state.SCB) if moved else (module.weight.CB, module.weight.SCB)
    if codes is None or scales is None:
        raise Refused("the output head is an 8-bit layer that is not quantised yet")

    def rows(start: int, stop: int) -> Tensor:
        return codes[start:stop] * (scales[start:stop, None] / 127)

    weight = Slices(tuple(codes.shape), torch.float32, codes.device, rows)
    return Head(weight, module.bias, kind="8-bit head", own_error=INT8_ERROR)


def _refuse_offloaded(module: nn.Module) -> None:
    """Accelerate loads such a layer inside its forward pass only."""
    hook = getattr(module, "_hf_hook", None)
    if any(getattr(each, "offload", False) for each in getattr(hook, "hooks", [hook])):
        raise Refused("the output head is offloaded")


KNOWN: dict[str, Callable[[Any], Head]] = {
    "torch.nn.modules.linear.Linear": _linear,
    "peft.utils.other.ModulesToSaveWrapper": _trained_copy,
    "peft.utils.other.TrainableTokensWrapper": _trained_rows,
    "peft.tuners.lora.layer.Linear": _lora,
    "peft.tuners.lora.bnb.Linear4bit": _lora,
    "peft.tuners.lora.bnb.Linear8bitLt": _lora,
    "bitsandbytes.nn.modules.Linear4bit": _four_bit,
    "bitsandbytes.nn.modules.LinearNF4": _four_bit,
    "bitsandbytes.nn.modules.LinearFP4": _four_bit,
    "bitsandbytes.nn.modules.Linear8bitLt": _eight_bit,
}
