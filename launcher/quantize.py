"""A base model whose linear layers are quantised by bitsandbytes while it is read (method qlora).

What is not quantised keeps `model_dtype`, as under method lora. PEFT's prepare_model_for_kbit_training would make it all fp32: for
embedding and head that costs memory and brings nothing, and for norms, which compute in fp32 anyway, it makes every activation
after them fp32, a third more memory. What is trained is fp32 under either.
"""

import importlib.util
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import EnvironmentProblem, RecipeError
from launcher.quantized_layers import BLOCK, Layout, dequantized, is_quantized_layer, uneven

MISSING = "method: qlora needs bitsandbytes, which is not installed"


def load_options(layout: Layout, compute_dtype: str | None, device: str) -> dict[str, Any]:
    """Keywords of `from_pretrained`. Each weight is quantised on the device as it is read, so the whole never stands in memory."""
    insist_on_bitsandbytes()
    from transformers import BitsAndBytesConfig

    # Where it is left out, transformers takes the current GPU, or the CPU where there is none; with ZeRO-3 it must be left out.
    place = {"device_map": {"": "cpu"}} if device == "cpu" and torch.cuda.is_available() else {}
    scheme = layout.scheme
    if scheme.in_checkpoint:
        _refuse_unreadable(layout, device)
        return place
    if scheme.bits == 8:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(layout.kept))
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=scheme.quant_type,
            bnb_4bit_use_double_quant=scheme.double_quant,
            bnb_4bit_compute_dtype=compute_dtype,
            llm_int8_skip_modules=list(layout.kept),
        )
    return {**place, "quantization_config": config}


def settle(model: nn.Module, layout: Layout, compute_dtype: str | None) -> None:
    """Let 4-bit layers compute as `_forward` does, in `compute_dtype`."""
    from bitsandbytes.nn import Linear4bit

    found = {name for name, module in model.named_modules() if is_quantized_layer(module)}
    assert found == layout.linear.keys(), f"planned and loaded differ: {sorted(found ^ layout.linear.keys())[:5]}"
    if compute_dtype is not None:
        model.config.quantization_config.bnb_4bit_compute_dtype = getattr(torch, compute_dtype)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = model.config.quantization_config.bnb_4bit_compute_dtype
            module.forward = MethodType(_forward, module)


def _forward(layer: Any, x: Tensor) -> Tensor:
    """In place of bitsandbytes' own forward pass of a 4-bit layer; x (..., in_features) -> (..., out_features), in the type of x.

    That one repacks the weight on a CPU with AVX512-BF16 at its first use without gradients: the scales are rounded to bf16 for
    good, and every later backward pass goes past the layer, without an error.
    """
    dtype = layer.compute_dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return _Product.apply(x.to(dtype), layer.weight, bias, layer.weight.quant_state).to(x.dtype)


class _Product(torch.autograd.Function):
    """x W^T + b for a frozen W in 4 bits. Differs from bitsandbytes' in what it keeps and in the type of the backward pass.

    It saves W in autograd's way, so that ZeRO-3 can take W apart and checkpointing can drop it; bitsandbytes holds on to the whole
    weights of all layers between forward and backward. And it dequantises to the same type in both directions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        from bitsandbytes import matmul_4bit

        ctx.save_for_backward(weight)
        ctx.state = state
        return matmul_4bit(x, weight, state, bias=bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return gradient @ dequantized(weight, ctx.state, gradient.dtype), None, None, None


def original_weights(model: Any) -> Callable[[str], Tensor]:
    """Module name -> its weight (out_features, in_features) before quantisation. Reads the whole base once more, on the CPU."""
    source = model
    if getattr(model, "hf_quantizer", None) is not None:
        if model.hf_quantizer.pre_quantized:
            raise RecipeError(
                "adapter.init_lora_weights loftq: the checkpoint is quantised, and what its weights were before is not known",
                fix="start from the model as it was before, or use pissa",
            )
        revision = getattr(model.config, "_commit_hash", None)
        options = {"revision": revision} if revision else {}
        source = type(model).from_pretrained(model.config.name_or_path, dtype=model.config.dtype, **options)

    def weight(name: str) -> Tensor:
        module = source.get_submodule(name)
        return (module.weight.t() if type(module).__name__ == "Conv1D" else module.weight).detach()

    return weight


def insist_on_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(MISSING, fix="pip install bitsandbytes")


def _refuse_unreadable(layout: Layout, device: str) -> None:
    if device == "cpu" and (names := uneven(layout.linear, layout.scheme)):
        raise RecipeError(
            f"the checkpoint holds {names[0]} in 4 bits with {layout.linear[names[0]][1]} inputs: bitsandbytes reads a layer whose "
            f"inputs are no multiple of {BLOCK} wrongly on a CPU",
            fix="train on a GPU, or start from the model as it was before",
        )
