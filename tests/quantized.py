"""A tiny model with quantised layers, and what its weights stand for by the definition of the formats."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from launcher import model, parts, processor, quantized_layers, recipe

bnb = pytest.importorskip("bitsandbytes")

TASK = parts.load_whole("tasks", "causal_lm")
SCHEMES = {
    "nf4": "{double_quant: false}",
    "nf4 double": "{bits: 4}",
    "fp4 double": "{quant_type: fp4}",
    "int8": "{bits: 8}",
}


def make(folder: Path) -> Path:
    """The tiny recipe under method qlora, with layers of whole blocks and a tied head."""
    path = tiny.make(folder)
    tiny.save_model(path.parent / "model", hidden_size=64, intermediate_size=192, tie_word_embeddings=True)
    text = path.read_text().replace("method: lora", "method: qlora")
    path.write_text(text.replace("max_new_tokens: 4", "max_new_tokens: 4, metrics: [loss]"))
    return path


def loaded(path: Path, *words: str, dtype: str = "fp32", compute: str | None = "float32") -> Any:
    """The model with its adapter, B away from zero so that every gradient flows."""
    read = recipe.load(path, words)
    base = model.load(read, TASK, dtype, processor.load_tokenizer(read), "cpu", compute)
    return away_from_zero(parts.load("adapters", read.method).apply(base, read.adapter))


def away_from_zero(adapted: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return adapted


def by_definition(layer: Any) -> Tensor:
    """(out_features, in_features) that a quantised layer stands for."""
    if isinstance(layer, bnb.nn.Linear8bitLt):
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return layer.weight.data.float() * scales[:, None] / 127
    state, packed = layer.weight.quant_state, layer.weight.data.view(-1)
    scales = state.absmax
    if state.nested:
        outer = state.state2
        scales = outer.code[scales.long()] * outer.absmax.repeat_interleave(256)[: len(scales)] + state.offset
    values = state.code[torch.stack([packed >> 4, packed & 15], 1).view(-1).long()]
    return (values.view(-1, 64) * scales[:, None]).view(state.shape)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 25, (3, 12), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "labels": ids}


def layout_of(read: recipe.Recipe) -> quantized_layers.Layout:
    """From shapes alone."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return quantized_layers.layout(read, AutoModelForCausalLM.from_config(model.load_config(read)[0]))


def with_shape(path: Path, folder: Path, config: Any) -> list[str]:
    """Words for a recipe with an untrained model of this configuration."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(path.parent / "model", folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config)
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):  # which begin at zero
                torch.nn.init.normal_(parameter, std=0.5)
        made.save_pretrained(folder)
    return [f"model.name_or_path={folder}"]
