"""Tiny encoders with decoders, a tokenizer of bytes, and words to be turned round, made in a moment."""

import json
import random
from pathlib import Path
from typing import Any

T5 = {"d_model": 64, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "forced_eos_token_id": None,
}
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1}


def save(folder: Path, kind: str = "t5", **changes: Any) -> Path:
    """A model of that kind and the tokenizer of ByT5, which is a slow one: bytes and `</s>`."""
    import torch
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        ByT5Tokenizer,
        MarianConfig,
        MarianMTModel,
        T5Config,
        T5ForConditionalGeneration,
    )

    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.save_pretrained(folder)
    configs: dict[str, Any] = {
        "t5": (T5ForConditionalGeneration, T5Config, {**T5, "decoder_start_token_id": 0}),
        "bart": (BartForConditionalGeneration, BartConfig, {**BART, "decoder_start_token_id": 1}),
        "marian": (MarianMTModel, MarianConfig, {**BART, "decoder_start_token_id": 0}),
    }
    model, config, shape = configs[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(config(**{**SPECIAL, **shape, "vocab_size": len(tokenizer), **changes})).save_pretrained(folder)
    return folder


def words(path: Path, number: int, seed: int = 0) -> list[dict[str, str]]:
    """jsonl of {source, target}: from 2 to 12 letters, and the same backwards in capitals."""
    chance = random.Random(seed)
    rows = []
    for _ in range(number):
        word = "".join(chance.choices("abcdef", k=chance.randint(2, 12)))
        rows.append({"source": word, "target": word[::-1].upper()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows
