"""Tiny models of many architectures, batches for them, and what a loss and its gradients are compared by."""

import warnings

import numpy as np
import peft
import pytest
import torch
import transformers

from launcher.data import collate
from launcher.tasks.causal_lm.objective import Objective

VOCABULARY = 97
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large, so that a wrong logit moves the loss
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 16,  # the head sees a projection of the last layer
    "init_std": 0.3,
}
DROPOUT_OFF = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "is_decoder": True,
}
FAMILIES = {
    "llama": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA | {"sliding_window": 4},
    "gemma2": LLAMA | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3_text": LLAMA | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "cohere": LLAMA | {"logit_scale": 0.25},
    "granite": LLAMA | {"logits_scaling": 4.0},
    "olmo2": LLAMA,
    "phi3": LLAMA,
    "gpt_neox": LLAMA,
    "phi": LLAMA,  # a head with a bias
    "qwen3_moe": LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt2": GPT2 | DROPOUT_OFF,
    "opt": OPT | {"dropout": 0.0},
}


def build(family: str, attention: str = "eager", dtype: torch.dtype = torch.float32, **changes):
    torch.manual_seed(0)
    values = FAMILIES.get(family, {}) | changes
    config = transformers.AutoConfig.for_model(family, **values)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    with torch.no_grad():  # biases start at zero and norms at one, which would hide that they are left out
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def examples(lengths=(5, 1, 9, 7, 3, 6), seed: int = 0):
    """Ids, and which of them are trained on: a prompt of a third that is not."""
    draw = np.random.default_rng(seed)
    return [(draw.integers(1, VOCABULARY, size=n), np.arange(n) >= n // 3) for n in lengths]


def padded_batch(rows=None):
    rows = rows or examples()
    return collate.padded([[i] for i in range(len(rows))], lambda i: rows[i], 0)


def packed_batch(rows=None):
    """Two rows of different fill, so that there is padding behind the second."""
    rows = rows or examples()
    return collate.packed([[0, 1, 2, 3], [4, 5]], lambda i: rows[i], 0)


def loss_and_gradients(objective: Objective, batch):
    objective.zero_grad()
    total, count, weight = objective(**batch).terms["tokens"]
    total.backward()
    assert weight == 1.0
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return float(total.detach()), int(count), gradients


def assert_same(ours, theirs, tolerance: float = 2e-5):
    assert ours[1] == theirs[1]
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    assert ours[2].keys() == theirs[2].keys() and ours[2]
    largest = max(float(g.abs().max()) for g in theirs[2].values())
    for name, gradient in theirs[2].items():
        error = float((ours[2][name] - gradient).abs().max())
        assert error <= tolerance * max(float(gradient.abs().max()), 1e-2 * largest), name


def lora(model, **options):
    torch.manual_seed(1)
    targets = options.pop("target_modules", "all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, **options)
        )
    with torch.no_grad():  # B starts at zero, and then A has no gradient
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return adapted
