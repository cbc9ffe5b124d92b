"""The parts that `launcher explain` is made of: tokens and words in their places, and gradients of each family of models."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from launcher.explain import gradients, media, pieces

ROOT = Path(__file__).parent.parent
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIDES = {
    f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in (("layers", 1), ("attention_heads", 4))
}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SHAPE,
    "roberta": {**SHAPE, "pad_token_id": 1, "max_position_embeddings": 40},
    "deberta-v2": {**SHAPE, **DEBERTA, "pooler_hidden_size": 32},
    "modernbert": {**SHAPE, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "llama": {**SHAPE, "num_key_value_heads": 2},
    "gemma3_text": {**SHAPE, "num_key_value_heads": 2, "head_dim": 8},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "bart": {"d_model": 32, **SIDES, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "scale_embedding": True},
}


@pytest.mark.parametrize("text", ["naïve 🙂\u200d🙂 cat", "  ünï\tcode  ", "春天在 rome"])
def test_tokens_stand_where_they_are_in_the_text(text: str) -> None:
    """Of a tokenizer of bytes, where a character may be several tokens."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes" / "assets" / "python_gpt")
    ids, found = pieces.encoded(tokenizer, text)
    assert len(found) == len(ids)
    starts = [piece.start for piece in found]
    assert starts == sorted(starts)
    assert {place for piece in found for place in range(piece.start, piece.end)} >= {
        place for place, character in enumerate(text) if not character.isspace()
    }
    values = [float(place + 1) for place in range(len(found))]
    words = pieces.words(found, values, (text,))
    assert sum(word["attribution"] for word in words) == sum(values)
    assert all(text[word["start"] : word["end"]] == word["word"] for word in words)
    assert "".join(word["word"] for word in words) == re.sub(r"\s", "", text)


def test_tokens_of_a_template_are_special_and_unknown_words_are_not(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes" / "assets" / "python_gpt")
    _, found = pieces.encoded(tokenizer, "<|user|> dedent<|end|><|assistant|>")
    assert [piece.token for piece in found if piece.special] == ["<|user|>", "<|end|>", "<|assistant|>"]
    assert "".join(piece.token for piece in found if not piece.special) == "dedent"
    tiny_encoder.save_tokenizer(tmp_path)
    _, found = pieces.encoded(AutoTokenizer.from_pretrained(tmp_path), "ada 🙂")
    assert [(piece.token, piece.special) for piece in found][1:3] == [("ada", False), ("🙂", False)]
    assert found[0].special and found[3].special


def test_pixels_of_a_linear_model() -> None:
    chance = torch.Generator().manual_seed(0)
    given, baseline, weight = (torch.randn(1, 3, 4, 5, generator=chance) for _ in range(3))
    score = lambda said: said  # noqa: E731
    model = lambda pixel_values: (pixel_values * weight).sum((1, 2, 3))  # noqa: E731
    found = gradients.of_input(model, {"pixel_values": given}, "pixel_values", score, baseline, 2, 1)
    assert torch.allclose(found.values, weight * (given - baseline), atol=1e-6)
    assert sum(map(sum, media.cells(found.values))) == pytest.approx(found.difference, abs=1e-5)


@pytest.mark.parametrize(("family", "shape"), FAMILIES.items(), ids=list(FAMILIES))
def test_each_family_takes_its_input_from_its_embedding(family: str, shape: dict[str, Any]) -> None:
    """Positions from token ids (RoBERTa), scaled embeddings (Gemma, BART), one module for two readers (T5): all add up."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=60, **{"pad_token_id": 0, "num_labels": 2, **shape})
    writes = config.is_encoder_decoder
    model = (AutoModelForSeq2SeqLM if writes else AutoModelForSequenceClassification).from_config(config)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(
            4 if parameter.ndim > 1 and family != "t5" else 1
        )  # what is drawn for a new model is almost linear
    ids = torch.tensor([[5, 7, 9, 11, 2]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= {"decoder_input_ids": torch.tensor([[0, 4]])} if writes else {}
    baseline = torch.tensor([[3, 3, 3, 3, 2]])
    found = gradients.of_embeddings(
        model, inputs, lambda said: said.logits.flatten(1)[:, -1].float(), baseline, 100, 25
    )
    assert abs(found.difference) > 1e-3
    assert found.delta == pytest.approx(0, abs=0.01 * abs(found.difference))
    assert not found.values[0, -1].any()
    with torch.no_grad():
        plain = model(**inputs).logits.flatten(1)[0, -1]
    assert found.output == pytest.approx(float(plain), abs=1e-5)
