"""Which layers are quantised, in how many bytes, and what is refused while only shapes are known."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from quantized import SCHEMES, TASK, layout_of, loaded, with_shape
from torch import Tensor

from launcher import model, parts, plan, processor, quantize, quantized_layers, recipe
from launcher.errors import RecipeError
from launcher.world import World

bnb = pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_stored_bytes_are_those_of_the_loaded_model(wide: Path, scheme: str, dtype: str) -> None:
    read = recipe.load(wide, [f"quantization={SCHEMES[scheme]}"])
    base = model.load(read, TASK, dtype, processor.load_tokenizer(read), "cpu", "float32")
    layout = layout_of(read)
    kinds = {m.quant_state.quant_type for m in base.modules() if isinstance(m, bnb.nn.Linear4bit)} or {"int8"}
    assert kinds == {scheme.split()[0]} and len(layout.linear) == 14
    stored = layout.stored_bytes(4 if dtype == "fp32" else 2)
    assert stored == {name: sum(map(nbytes, parts_of(parameter))) for name, parameter in base.named_parameters()}
    facts = model.facts(read, TASK, parts.load("adapters", "qlora"))
    quantised = {weight.stored.codes + weight.stored.scales for weight in facts.weights if weight.stored}
    assert quantised and quantised <= set(stored.values())


def parts_of(parameter: Any) -> list[Tensor]:
    """A parameter with all that belongs to it alone."""
    if isinstance(parameter, bnb.nn.Int8Params):
        return [parameter.data, parameter.SCB]
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter.data]
    outer = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [parameter.data, state.absmax, state.code, *outer]


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def test_what_is_not_quantised_is_said_with_its_share(wide: Path, tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig

    shape = {"hidden_size": 64, "moe_intermediate_size": 64, "intermediate_size": 96, "num_experts": 4, "head_dim": 16}
    config = Qwen3MoeConfig(
        vocab_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, mlp_only_layers=[0], **shape
    )
    words = with_shape(wide, tmp_path / "moe", config)
    layout = layout_of(recipe.load(wide, [*words, "quantization={skip_modules: [layers.0.self_attn, v_proj]}"]))
    assert set(layout.linear) == {f"model.layers.{n}" for n in ("0.mlp.gate_proj", "0.mlp.up_proj")} | {
        f"model.layers.1.self_attn.{n}_proj" for n in "qko"
    }
    experts = 4 * 64 * 64 * 3
    assert (
        layout.left["weights of several matrices (fused experts, for example), which bitsandbytes cannot quantise"]
        == experts
    )
    assert layout.left["layers whose inputs are no multiple of 64"] == 96 * 64
    assert layout.left["quantization.skip_modules"] == 64 * (64 + 32 + 32 + 64) + 64 * 32
    assert sum(layout.left.values()) + sum(a * b for a, b in layout.linear.values()) == layout._number
    assert "% weights of several matrices (fused experts" in layout.remainder
    loaded(wide, *words)  # what was planned is what is loaded, or an assertion says so


REFUSED = {
    "quantization={bits: 8}": "quantization.bits is 8, and the checkpoint is quantised with 4",
    "quantization={quant_type: fp4}": "quantization.quant_type is fp4, and the checkpoint is quantised with nf4",
    "quantization={double_quant: true}": "write double_quant: false",
    "quantization={skip_modules: [v_proj]}": "skip_modules: the checkpoint is quantised already",
    "adapter.modules_to_save=[o_proj]": "o_proj is quantised in the checkpoint and cannot be trained in full",
    "adapter.init_lora_weights=loftq": "what its weights were before is not known",
    "method=lora": "the checkpoint is quantised and method lora trains whole weights",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_quantised_checkpoint_is_not_contradicted(wide: Path, quantized_checkpoint: Path, word: str) -> None:
    read = recipe.load(wide, [f"model.name_or_path={quantized_checkpoint}", word])
    with pytest.raises(RecipeError, match=REFUSED[word]):
        model.facts(read, TASK, parts.load("adapters", read.method))
        adapt(read)


def adapt(read: recipe.Recipe) -> Any:
    base = model.load(read, TASK, "fp32", processor.load_tokenizer(read), "cpu", "float32")
    return parts.load("adapters", read.method).apply(base, read.adapter)


def held(**config: Any) -> SimpleNamespace:
    found = SimpleNamespace(quantization_config=config)
    found.get_text_config = lambda: found
    return found


def test_other_quantisations_are_named(wide: Path) -> None:
    with pytest.raises(RecipeError, match="quantised with gptq; method qlora knows bitsandbytes only"):
        quantized_layers.scheme_of(recipe.load(wide), held(quant_method="gptq", bits=4))


def test_an_int8_checkpoint_is_not_sharded(wide: Path) -> None:
    """The recipe does not say that it is one, so the rule is applied again when the model is known."""
    read = recipe.load(wide, ["distributed.strategy=zero3"])
    facts = model.facts(read, TASK, parts.load("adapters", "qlora"))
    facts = dataclasses.replace(facts, quantized=dataclasses.replace(facts.quantized, quant_type="int8"))
    with pytest.raises(RecipeError, match="distributed.strategy: 8-bit layers hold on to their whole weights"):
        plan.make(read, World(1, 2), facts, None)


def test_a_layer_that_a_cpu_reads_wrongly_is_refused(wide: Path) -> None:
    scheme = quantized_layers.Scheme(4, "nf4", False, in_checkpoint=True)
    layout = quantized_layers.Layout(scheme, {"up": (8, 96)}, (), {}, {})
    with pytest.raises(RecipeError, match="holds up in 4 bits with 96 inputs"):
        quantize.load_options(layout, "float32", "cpu")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quantization={skip_modules: [nothing]}"], "no linear layer is, or is in, nothing"),
        (["quantization={skip_modules: [layers]}"], "finds no linear layer to quantise"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_when_it_is_planned(wide: Path, words: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        model.facts(recipe.load(wide, words), TASK, parts.load("adapters", "qlora"))
