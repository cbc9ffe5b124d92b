"""Base weights in 4 or 8 bits through bitsandbytes (arXiv:2305.14314, arXiv:2208.07339): which layers, how many bytes, how loaded.

What is left as it is keeps `model_dtype`, as under method lora: a norm computes in fp32 whatever its weight is stored in, and its
weight in fp32 would only make all activations after it fp32; fp32 copies of embedding and head cost memory and bring nothing. What is
trained is fp32 (PEFT sees to that).
"""

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from launcher.errors import EnvironmentProblem, RecipeError
from launcher.recipe import Recipe
from launcher.schema import Quantization

BLOCK = 64  # weights that share a scale
SCALES_BLOCK = 256  # scales that share a scale of theirs
CODE_BYTES = 16 * 4  # the sixteen values of a 4-bit code, kept by every layer
MISSING = "method: qlora needs bitsandbytes, which is not installed"


@dataclass(frozen=True)
class Scheme:
    """How weights are stored. `in_checkpoint`: the base comes quantised, and `kept` modules of it did not take part."""

    bits: int
    quant_type: str
    double_quant: bool
    in_checkpoint: bool = False
    kept: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.quant_type + (" with quantised scales" if self.double_quant else "")

    def weight_bytes(self, out_features: int, in_features: int) -> int:
        """Bytes of one linear layer's weight with all that belongs to it.

        4 bits: half a byte a weight and a scale a block, fp32, or with double_quant one byte each, an fp32 scale for every 256 of
        them and an fp32 offset. The table of 256 values that double_quant keeps once a process is not counted. 8 bits: one byte
        a weight and an fp32 scale a row.
        """
        if self.bits == 8:
            return out_features * in_features + 4 * out_features
        number = out_features * in_features
        blocks = _ceil(number, BLOCK)
        scales = blocks + 4 * _ceil(blocks, SCALES_BLOCK) + 4 if self.double_quant else 4 * blocks
        return _ceil(number, 2) + scales + CODE_BYTES


@dataclass(frozen=True)
class Layout:
    """Which weights of a model are quantised. `left`: why other parameters are not -> how many they are."""

    scheme: Scheme
    linear: Mapping[str, tuple[int, int]]  # module name -> (out_features, in_features)
    kept: tuple[str, ...]  # modules that bitsandbytes is told to leave alone
    shapes: Mapping[str, torch.Size]  # of all parameters
    left: Mapping[str, int]

    def stored_bytes(self, bytes_per_value: int) -> dict[str, int]:
        """Parameter name -> bytes as stored; what is not quantised takes `bytes_per_value` a value."""
        return {
            name: self.scheme.weight_bytes(*self.linear[owner])
            if (owner := name.removesuffix(".weight")) != name and owner in self.linear
            else shape.numel() * bytes_per_value
            for name, shape in self.shapes.items()
        }

    def __str__(self) -> str:
        share = sum(out * width for out, width in self.linear.values()) / self._number
        return f"{self.scheme}: {len(self.linear)} linear layers, {share:.1%} of the parameters"

    @property
    def remainder(self) -> str:
        """What stays as it is, and why."""
        return "not quantised: " + ", ".join(f"{why} {number / self._number:.1%}" for why, number in self.left.items())

    @property
    def _number(self) -> int:
        return sum(shape.numel() for shape in self.shapes.values())


def scheme_of(recipe: Recipe, config: Any) -> Scheme:
    """What the recipe asks for; or what the checkpoint already holds, which the recipe may repeat but not contradict."""
    asked = recipe.quantization or Quantization()
    held = _held_by(config)
    if held is None:
        is_4bit = asked.bits == 4
        double = is_4bit if asked.double_quant is None else asked.double_quant
        return Scheme(asked.bits, asked.quant_type or ("nf4" if is_4bit else "int8"), double)
    if held.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise RecipeError(
            f"the checkpoint is quantised with {held['quant_method']}; method qlora knows bitsandbytes only",
            fix="take the model as it was before",
        )
    found = _scheme_held(held)
    if recipe.quantization is not None:
        _refuse_contradiction(recipe, found)
    return found


def refuse_quantized(config: Any, method: str) -> None:
    """For the methods that need whole weights."""
    if (_held_by(config) or {}).get("quant_method") == "bitsandbytes":
        raise RecipeError(
            f"the checkpoint is quantised and method {method} trains whole weights", fix="use method: qlora"
        )


def layout(recipe: Recipe, model: Any) -> Layout:
    """Which layers transformers will hand to bitsandbytes; from names and shapes alone, so `model` may have no storage.

    Never the output head, what is tied to it, or what adapter.modules_to_save trains. A layer whose input is no multiple of 64 stays
    whole in 4 bits, because bitsandbytes reads it back wrongly on a CPU, and a recipe is to mean the same everywhere.
    """
    scheme = scheme_of(recipe, model.config)
    linear = {name: shape for name, module in model.named_modules() if (shape := _linear_shape(module))}
    trained = _named(model, recipe.adapter.modules_to_save)
    reasons = {"embeddings and head": _head(model, scheme)}
    if not scheme.in_checkpoint:
        reasons |= {
            "adapter.modules_to_save": trained,
            "quantization.skip_modules": _skipped(recipe, model),
            f"inputs that are no multiple of {BLOCK}": _uneven(linear, scheme),
        }
    kept = {name for names in reasons.values() for name in names}
    taken = _convertible(linear, model, kept)
    _refuse_trained(taken, trained)
    if not taken:
        raise RecipeError("method qlora finds no linear layer to quantise in this model", fix="use method: lora")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return Layout(scheme, taken, tuple(sorted(kept)), shapes, _left(model, taken, reasons))


def load_options(layout: Layout, compute_dtype: str | None, device: str) -> dict[str, Any]:
    """Keywords of `from_pretrained`. Each weight is quantised on the device as it is read, so the whole never stands in memory."""
    insist_on_bitsandbytes()
    from transformers import BitsAndBytesConfig

    device_map = {"": torch.cuda.current_device() if device == "cuda" else device}
    scheme = layout.scheme
    if scheme.in_checkpoint:
        _refuse_unreadable(layout, device)
        return {"device_map": device_map}
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
    return {"device_map": device_map, "quantization_config": config}


def settle(model: nn.Module, layout: Layout, compute_dtype: str | None) -> None:
    """Make 4-bit layers compute the same function forward and backward, in training and in evaluation.

    On a CPU with AVX512-BF16 bitsandbytes repacks a layer's weight at its first use without gradients: its scales are rounded to
    bf16 for good, and every later backward pass goes past the layer (gradients off by more than their own size, without an error).
    And its backward pass takes the weights in the type that they were loaded in, not in the one of the forward pass.
    """
    from bitsandbytes.nn import Linear4bit

    found = {name for name, module in model.named_modules() if is_quantized_layer(module)}
    assert found == layout.linear.keys(), f"planned and loaded differ: {sorted(found ^ layout.linear.keys())[:5]}"
    if compute_dtype is not None:
        model.config.quantization_config.bnb_4bit_compute_dtype = getattr(torch, compute_dtype)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = model.config.quantization_config.bnb_4bit_compute_dtype
            module.compute_type_is_set, module.support_avx512bf16_for_cpu = True, False
            module.weight.quant_state.dtype = module.compute_dtype
            if module.bias is not None:  # its forward pass would do so in place
                module.bias.data = module.bias.data.to(module.compute_dtype)


def is_quantized_layer(module: nn.Module) -> bool:
    """Known by name: bitsandbytes need not be there."""
    return type(module).__module__ == "bitsandbytes.nn.modules" and type(module).__name__ in (
        "Linear4bit",
        "Linear8bitLt",
    )


def insist_on_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(MISSING, fix="pip install 'finetune-launcher[qlora]'")


def _refuse_unreadable(layout: Layout, device: str) -> None:
    if device == "cpu" and (names := _uneven(layout.linear, layout.scheme)):
        raise RecipeError(
            f"the checkpoint holds {names[0]} in 4 bits with {layout.linear[names[0]][1]} inputs: bitsandbytes reads a layer whose "
            f"inputs are no multiple of {BLOCK} wrongly on a CPU",
            fix="train on a GPU, or start from the model as it was before",
        )


# --- what a checkpoint says of itself ---------------------------------------------------------------------------------


def _held_by(config: Any) -> dict[str, Any] | None:
    held = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    return held if held is None or isinstance(held, dict) else held.to_dict()


def _scheme_held(held: Mapping[str, Any]) -> Scheme:
    kept = held.get("llm_int8_skip_modules")
    kept = None if kept is None else tuple(kept)
    if held.get("load_in_8bit"):
        return Scheme(8, "int8", False, True, kept)
    return Scheme(4, held.get("bnb_4bit_quant_type", "fp4"), held.get("bnb_4bit_use_double_quant", False), True, kept)


def _refuse_contradiction(recipe: Recipe, found: Scheme) -> None:
    if recipe.quantization.skip_modules:
        raise RecipeError(
            "quantization.skip_modules: the checkpoint is quantised already, and has decided which modules are not",
            where=recipe.origin("quantization.skip_modules"),
            fix="take it out",
        )
    for name in ("bits", "quant_type", "double_quant"):
        asked, holds = getattr(recipe.quantization, name), getattr(found, name)
        if asked is not None and asked != holds:
            raise RecipeError(
                f"quantization.{name} is {asked}, and the checkpoint is quantised with {holds}",
                where=recipe.origin(f"quantization.{name}"),
                fix=f"take it out, or write {name}: {str(holds).lower()}",
            )


# --- layers by name ---------------------------------------------------------------------------------------------------


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(out_features, in_features) of what bitsandbytes replaces. GPT-2's Conv1D stores its weight transposed."""
    if type(module) is nn.Linear:
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        return module.weight.shape[1], module.weight.shape[0]
    return None


def _named(model: nn.Module, names: Collection[str]) -> list[str]:
    """Linear layers that a recipe's names mean: modules by the end of their name, and all that is below them."""
    modules = [name for name, _ in model.named_modules()]
    roots = {m for m in modules for wanted in names if m == wanted or m.endswith("." + wanted)}
    return [
        name
        for name, module in model.named_modules()
        if _linear_shape(module) and any(name == root or name.startswith(root + ".") for root in roots)
    ]


def _head(model: Any, scheme: Scheme) -> Collection[str]:
    """The output head and what is tied to it, or what the checkpoint names in their place."""
    from transformers.quantizers.base import get_keys_to_not_convert

    return get_keys_to_not_convert(model) if scheme.kept is None else scheme.kept


def _skipped(recipe: Recipe, model: nn.Module) -> list[str]:
    names = recipe.quantization.skip_modules if recipe.quantization is not None else ()
    found = {name: _named(model, [name]) for name in names}
    if nothing := [name for name, layers in found.items() if not layers]:
        raise RecipeError(
            f"quantization.skip_modules: no linear layer is, or is in, {', '.join(nothing)}",
            where=recipe.origin("quantization.skip_modules"),
        )
    return [layer for layers in found.values() for layer in layers]


def _uneven(linear: Mapping[str, tuple[int, int]], scheme: Scheme) -> list[str]:
    if scheme.bits == 8:
        return []
    return [name for name, (_, in_features) in linear.items() if in_features % BLOCK]


def _convertible(
    linear: Mapping[str, tuple[int, int]], model: Any, kept: Collection[str]
) -> dict[str, tuple[int, int]]:
    """By transformers' own rule, which reads a name as a pattern."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    patterns = [*kept, *(model._keep_in_fp32_modules or ())]
    return {name: shape for name, shape in linear.items() if should_convert_module(name, patterns)}


def _refuse_trained(taken: Collection[str], trained: Collection[str]) -> None:
    if quantised := sorted(set(taken) & set(trained)):
        raise RecipeError(
            f"adapter.modules_to_save: {quantised[0]} is quantised in the checkpoint and cannot be trained in full",
            fix="adapt it with adapter.target_modules, or start from the model as it was before",
        )


def _left(model: nn.Module, taken: Collection[str], reasons: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Why parameters are not quantised -> how many they are, the largest first."""
    counts: dict[str, int] = {}
    for name, why, number in _unquantized(model, taken, reasons):
        counts[why] = counts.get(why, 0) + number
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _unquantized(
    model: nn.Module, taken: Collection[str], reasons: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, int]]:
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if owner in taken and leaf == "weight":
            continue
        why = next((why for why, names in reasons.items() if owner in names), "norms, biases and others")
        if owner in embeddings:
            why = "embeddings and head"
        elif parameter.ndim > 2:
            why = "weights of several matrices, such as fused experts, which bitsandbytes cannot quantise,"
        yield name, why, parameter.numel()


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
