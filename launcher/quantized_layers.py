"""Which weights of a model bitsandbytes stores in 4 or 8 bits (arXiv:2305.14314, arXiv:2208.07339), and in how many bytes.

From names and shapes alone, so the plan knows it before anything is loaded.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import RecipeError
from launcher.recipe import Recipe
from launcher.schema import Quantization

BLOCK = 64  # weights that share a scale
SCALES_BLOCK = 256  # scales that share a scale of theirs
EMBEDDINGS = "embeddings and head"
CODE_BYTES = 16 * 4  # the sixteen values of a 4-bit code, kept by every layer
SCALES_CODE_BYTES = 256 * 4  # the values of a scale's code, too


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

    def parts(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Bytes of one linear layer's weight: of its codes, and of all that belongs to them.

        4 bits: half a byte a weight and a scale a block, fp32, or with double_quant one byte each, an fp32 scale for every 256 of
        them, an fp32 offset, and a table of 256 values of its own. 8 bits: one byte a weight and an fp32 scale a row.
        """
        number = out_features * in_features
        if self.bits == 8:
            return number, 4 * out_features
        blocks = _ceil(number, BLOCK)
        outer = 4 * _ceil(blocks, SCALES_BLOCK) + 4 + SCALES_CODE_BYTES
        scales = blocks + outer if self.double_quant else 4 * blocks
        return _ceil(number, 2), scales + CODE_BYTES

    def weight_bytes(self, out_features: int, in_features: int) -> int:
        """Bytes of one linear layer's weight with all that belongs to it."""
        return sum(self.parts(out_features, in_features))


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
        return "not quantised: " + ", ".join(f"{number / self._number:.1%} {why}" for why, number in self.left.items())

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
    """Which layers transformers will hand to bitsandbytes. `model` may have no storage.

    Never the output head, what is tied to it, or what is trained in full beside the adapter. In 4 bits a layer stays whole if its
    number of inputs is no multiple of 64: bitsandbytes reads it back wrongly on a CPU, and a recipe is to mean the same everywhere.
    """
    scheme = scheme_of(recipe, model.config)
    linear = {name: shape for name, module in model.named_modules() if (shape := _linear_shape(module))}
    trained = _named(model, (*recipe.adapter.modules_to_save, *getattr(model, "head_modules", ())))
    reasons = {EMBEDDINGS: _head(model, scheme)}
    if not scheme.in_checkpoint:
        reasons |= {
            "adapter.modules_to_save": trained,
            "quantization.skip_modules": _skipped(recipe, model),
            f"layers whose inputs are no multiple of {BLOCK}": uneven(linear, scheme),
        }
    kept = {name for names in reasons.values() for name in names}
    taken = _convertible(linear, model, kept)
    _refuse_impossible(model, taken, trained)
    if not taken:
        raise RecipeError("method qlora finds no linear layer to quantise in this model", fix="use method: lora")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return Layout(scheme, taken, tuple(sorted(kept)), shapes, _left(model, taken, reasons))


def is_quantized_layer(module: nn.Module) -> bool:
    """Known by name: bitsandbytes need not be there."""
    return type(module).__module__ == "bitsandbytes.nn.modules" and type(module).__name__ in (
        "Linear4bit",
        "Linear8bitLt",
    )


def dequantized(weight: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """(out_features, in_features) of a packed 4-bit weight, rounded to `dtype` once."""
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(state)
    state.dtype = dtype
    return dequantize_4bit(weight.detach(), state)


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


def uneven(linear: Mapping[str, tuple[int, int]], scheme: Scheme) -> list[str]:
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


def _refuse_impossible(model: Any, taken: Collection[str], trained: Collection[str]) -> None:
    """What only a checkpoint that is quantised already can bring about."""
    if any(model.get_submodule(name) is model.get_output_embeddings() for name in taken):
        raise RecipeError(
            "the checkpoint holds a quantised output head, which is not supported",
            fix="start from the model as it was before; its head stays whole then",
        )
    if quantised := sorted(set(taken) & set(trained)):
        raise RecipeError(
            f"adapter.modules_to_save: {quantised[0]} is quantised in the checkpoint and cannot be trained in full",
            fix="adapt it with adapter.target_modules, or start from the model as it was before",
        )


def _left(model: nn.Module, taken: Collection[str], reasons: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Why parameters are not quantised -> how many they are, the largest first."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if owner not in taken or leaf != "weight":
            why = _why(model.get_submodule(owner), owner, parameter, reasons)
            counts[why] = counts.get(why, 0) + parameter.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _why(module: nn.Module, name: str, parameter: nn.Parameter, reasons: Mapping[str, Collection[str]]) -> str:
    if isinstance(module, nn.Embedding):
        return EMBEDDINGS
    if parameter.ndim > 2:
        return "weights of several matrices (fused experts, for example), which bitsandbytes cannot quantise"
    return next((why for why, names in reasons.items() if name in names), "norms, biases and others")


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
