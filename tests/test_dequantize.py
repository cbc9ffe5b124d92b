"""A merged export is a plain model that says what the quantised one with its adapter says."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from quantized import by_definition, loaded, with_shape

from launcher import dequantize, export
from launcher.errors import RecipeError

MANY = f"tokenizer.add_tokens=[{', '.join(f'new{i}' for i in range(20))}]"
MERGED = {
    "tied and resized": ([MANY, "adapter.modules_to_save=[embed_tokens, lm_head]"], 2e-6),
    "fp4 of bf16": (["quantization={quant_type: fp4}", "training.precision=bf16", "export.dtype=fp32"], 2e-2),
    "int8": (["quantization={bits: 8}"], 1e-2),
    "a trained copy and DoRA": (["adapter.modules_to_save=[o_proj]", "adapter.use_dora=true"], 2e-6),
}


@pytest.mark.parametrize("name", MERGED)
@pytest.mark.usefixtures("proof_in_this_process")
def test_a_merged_export_is_a_plain_model_that_says_the_same(wide: Path, tmp_path: Path, name: str) -> None:
    """The share of the largest logit is tighter than what the proof allows."""
    words, allowed = MERGED[name]
    folder = tmp_path / "run"
    shared = ["export.merge=true", "export.verify=true", "training.max_steps=3", f"output_dir={folder}"]
    assert tiny.train(wide, *shared, *words) == 0
    verdict = json.loads((folder / "proof" / "verdict.json").read_text())
    assert verdict["ok"] and verdict["largest_logit_difference"] < allowed
    config = json.loads((folder / "export" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    assert config["vocab_size"] == (45 if name == "tied and resized" else 32)


def test_merging_rounds_once_and_keeps_the_update(wide: Path) -> None:
    """PEFT's own merge would leave a few percent of it."""
    ours = loaded(wide, "adapter.r=2")
    layer = ours.get_base_model().model.layers[1].mlp.up_proj
    stored, update = by_definition(layer.base_layer), layer.get_delta_weight("default").detach()
    ours.get_base_model().config.dtype = torch.bfloat16
    merged = dequantize.merge_quantized(ours)
    assert torch.equal(merged.model.layers[1].mlp.up_proj.weight, (stored + update).bfloat16())
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


@pytest.mark.usefixtures("proof_in_this_process")
def test_gpt2_is_quantised_and_merged_the_right_way_round(wide: Path, tmp_path: Path) -> None:
    """Its weights are stored transposed; a square one that is not turned back would load without a word."""
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=32, n_embd=64, n_layer=1, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    words = with_shape(wide, tmp_path / "gpt2", config)
    folder = tmp_path / "run"
    options = ["export.merge=true", "export.verify=true", "training.max_steps=3", f"output_dir={folder}"]
    assert tiny.train(wide, *words, *options) == 0
    assert json.loads((folder / "proof" / "verdict.json").read_text())["largest_logit_difference"] < 2e-6


def test_an_adapter_is_not_cast(wide: Path) -> None:
    """`launcher export --dtype` without --merge; a recipe is refused before it trains."""
    with pytest.raises(RecipeError, match="stays in the type in which it was trained; leave the dtype out, or merge"):
        export._cast(loaded(wide), export.Wanted(merge=False, dtype="bf16", verify=True))
