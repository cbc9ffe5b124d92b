"""A stand-in must run the same code as the model it stands for, or a test with it proves nothing."""

import copy
import json
from pathlib import Path

import pytest
import torch
from stand_in import WINDOW, shrink
from transformers import AutoConfig, AutoModelForCausalLM

PUBLISHED = sorted((Path(__file__).parent.parent / "recipes" / "assets" / "configs").glob("*.json"))
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0] * 48,
    "long_factor": [2.0] * 48,
    "original_max_position_embeddings": 4096,
}
# Architecture -> what makes its sizes depend on each other, where the defaults do not show it.
ARCHITECTURES = {
    "llama": {"num_attention_heads": 32, "num_key_value_heads": 8},
    "mistral": {},
    "qwen2": {"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 1024},
    "gemma": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "gemma2": {},
    "gemma3_text": {},
    "phi3": {
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.75,
        "rope_parameters": LONGROPE,
        "pad_token_id": 31999,
    },
    "olmo2": {},
    "olmo3": {},
    "granite": {},
    "smollm3": {},
    "starcoder2": {},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {},
    "mixtral": {},
    "qwen3_moe": {},
    "gpt_oss": {},
}


def published(path: Path) -> tuple[dict, "AutoConfig"]:
    values = json.loads(path.read_text())
    shape = {key: value for key, value in values.items() if not key.startswith("_")}
    return values, AutoConfig.for_model(shape.pop("model_type"), **shape)


def without_storage(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def ratio(config) -> int:
    return config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def check_stand_in(full_config) -> None:
    before = copy.deepcopy(full_config.to_dict())
    config = shrink(full_config, vocab_size=300)
    assert full_config.to_dict() == before, "the argument was changed"
    full, model = without_storage(full_config), AutoModelForCausalLM.from_config(config)

    assert type(model) is type(full)
    assert ratio(config) == ratio(full_config)
    assert {type(m) for m in model.modules()} == {type(m) for m in full.modules()}
    assert {p.ndim for p in model.parameters()} == {p.ndim for p in full.parameters()}
    tied, was_tied = ([m.get_input_embeddings().weight is m.get_output_embeddings().weight] for m in (model, full))
    assert tied == was_tied
    assert sum(p.numel() for p in model.parameters()) < 1_000_000

    ids = torch.randint(0, 300, (2, 2 * WINDOW), generator=torch.Generator().manual_seed(0))
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    assert abs(loss.item() - torch.tensor(300.0).log().item()) < 0.5, "random weights know nothing"
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name):
    check_stand_in(AutoConfig.for_model(name.partition("-")[0], **ARCHITECTURES[name]))


def is_decoder(path: Path) -> bool:
    """Whether a recipe for language models names it; the stand-ins of other tasks are tried in test_recipes.py."""
    texts = [recipe.read_text() for recipe in path.parents[2].glob("*.yaml")]
    return any("task: causal_lm" in text and f"name_or_path: {path.stem.replace('--', '/')}" in text for text in texts)


DECODERS = list(filter(is_decoder, PUBLISHED))


@pytest.mark.parametrize("path", DECODERS, ids=lambda path: path.stem)
def test_published_shape(path):
    values, config = published(path)
    counted = sum(p.numel() for p in without_storage(config).parameters())
    assert counted == values["_parameters"], "this is not the shape of the published model"
    check_stand_in(config)


def test_kinds_of_layers_are_kept():
    full = AutoConfig.for_model("gemma3_text")
    assert len(set(full.layer_types)) == 2
    assert shrink(full).layer_types == ["sliding_attention", "full_attention"]


def test_special_tokens_stay_inside_the_vocabulary():
    config = AutoConfig.for_model("llama", bos_token_id=31998, eos_token_id=[2, 31998, 31999], pad_token_id=None)
    small = shrink(config, vocab_size=300)
    assert (small.bos_token_id, small.eos_token_id, small.pad_token_id) == (299, [2, 299], None)
