"""A trained model with quantised weights becomes one without: stored weight + update in fp32, rounded once to the type asked for.

PEFT's own merge quantises the sum again: of an update of a hundredth of the weight one percent was left (nf4).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import CheckpointError
from launcher.quantized_layers import dequantized, is_quantized_layer

INT8_ERROR = 3e-2  # of the largest logit: 8-bit layers round their input, too, and a merged model does not


def is_quantized(model: Any) -> bool:
    return any(is_quantized_layer(module) for module in model.modules())


def merge_quantized(model: Any) -> Any:
    """The base model of a PEFT model, plain and in the type that its configuration names; done in place, layer by layer."""
    base = model.get_base_model()
    for name, wrapper in _quantized_linears(base):
        base.set_submodule(name, _plain(wrapper, name, base.config.dtype))
    merged = model.merge_and_unload(safe_merge=True)  # what was not quantised: trained copies, LoRA on the head
    _forget_quantization(merged)
    return merged.to(merged.config.dtype)


def stored_weight(layer: nn.Module) -> Tensor:
    """(out_features, in_features) in fp32: exactly what a quantised layer stands for."""
    from bitsandbytes.functional import int8_vectorwise_dequant

    if type(layer).__name__ == "Linear8bitLt":
        scales = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
        return int8_vectorwise_dequant(layer.weight.data, scales)
    return dequantized(layer.weight, layer.weight.quant_state, torch.float32)


def arithmetic_error(model: Any, rounding: Mapping[torch.dtype, float]) -> float:
    """How far a quantised model's logits are off by how it computes, as a share of the largest; 0 for any other model.

    `rounding`: the same for models that compute in a type.
    """
    layers = [module for module in model.modules() if is_quantized_layer(module)]
    errors = [rounding[m.compute_dtype] if type(m).__name__ == "Linear4bit" else INT8_ERROR for m in layers]
    return max(errors, default=0.0)


def _quantized_linears(base: nn.Module) -> list[tuple[str, nn.Module]]:
    """PEFT's wrappers of quantised layers, and quantised layers without one."""
    wrappers = {n: m for n, m in base.named_modules() if is_quantized_layer(getattr(m, "base_layer", nn.Identity()))}
    inner = {f"{name}.base_layer" for name in wrappers}
    bare = {n: m for n, m in base.named_modules() if is_quantized_layer(m) and n not in inner}
    return [*wrappers.items(), *bare.items()]


def _plain(layer: Any, name: str, dtype: torch.dtype) -> nn.Module:
    """An ordinary linear layer, or the Conv1D that it was, with the update folded in."""
    stored = getattr(layer, "base_layer", layer)
    weight = stored_weight(stored)
    for adapter in getattr(layer, "active_adapters", ()):
        if adapter in layer.lora_A:
            variant = layer.lora_variant.get(adapter)
            weight = variant.merge_safe(layer, adapter, weight) if variant else weight + layer.get_delta_weight(adapter)
    if not weight.isfinite().all():
        raise CheckpointError(f"the merged weight of {name} holds NaN or infinity")
    return _module_for(stored, weight.to(dtype))


def _module_for(stored: Any, weight: Tensor) -> nn.Module:
    with torch.device("meta"):
        if stored.source_cls.__name__ == "Conv1D":
            weight = weight.t().contiguous()
            plain = stored.source_cls(stored.out_features, stored.in_features)
        else:
            plain = nn.Linear(stored.in_features, stored.out_features, stored.bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = stored.bias
    return plain


def _forget_quantization(model: Any) -> None:
    """In the configuration, and in the conversions of names and weights that saving turns round."""
    model.hf_quantizer.remove_quantization_config(model)
    if conversions := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [each for each in conversions if not _reads_quantized(each)]
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        if hasattr(model, flag):
            delattr(model, flag)


def _reads_quantized(conversion: Any) -> bool:
    operations = getattr(conversion, "operations", ())
    return any(type(operation).__module__ == "transformers.integrations.bitsandbytes" for operation in operations)
