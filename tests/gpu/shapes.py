"""The models that are trained, and how many floating point operations they need.

Model FLOPs utilisation as defined by PaLM (Chowdhery et al., arXiv:2204.02311, appendix B): the operations of a forward and a
backward pass, without anything that is computed twice, beside what the chip could do in the time. A token takes

    6 N + 12 L H Q T    N weights in matrix products, L layers, H heads of width Q, T tokens in a sequence,

2 N forward, 2 N for the gradients of the inputs, 2 N for those of the weights; attention as if it were not causal. With LoRA
the frozen weights have no gradient and count 4 N; the adapters count 6 N. An embedding is looked up, which is no product, so
N has it only where it is also the head. Norms are left out.
"""

import json
from pathlib import Path

CONFIGS = Path(__file__).parent.parent.parent / "recipes" / "assets" / "configs"
SHAPES = {"Llama-3.2-1B": "meta-llama--Llama-3.2-1B-Instruct", "Qwen3-0.6B": "Qwen--Qwen3-0.6B"}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}
# Dense bf16 TFLOP/s from NVIDIA's data sheets; the first name that is part of the GPU's own counts.
PEAK_TFLOPS = (("H200", 989.0), ("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H100", 989.0), ("A100", 312.0))


def config_of(shape: str, small: bool) -> dict:
    """A published configuration without its source notes, and with the end token of our own tokenizer."""
    values = json.loads((CONFIGS / f"{SHAPES[shape]}.json").read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    return values | (SMALL if small else {}) | {"bos_token_id": None, "eos_token_id": 1}


def flops_per_token(config: dict, method: str, tokens_per_row: int, lora_r: int) -> float:
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    linear = layers * sum(rows * columns for rows, columns in _linear_layers(config))
    adapters = layers * sum(lora_r * (rows + columns) for rows, columns in _linear_layers(config))
    weights = linear + hidden * config["vocab_size"]
    attention = 12 * layers * config["num_attention_heads"] * config["head_dim"] * tokens_per_row
    return attention + (6 * weights if method == "full" else 4 * weights + 6 * adapters)


def _linear_layers(config: dict) -> list[tuple[int, int]]:
    """(outputs, inputs) of the linear layers of one block: q, k, v, o, gate, up, down."""
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    return [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)] + 3 * [(inner, hidden)]


def peak_tflops(gpu: str | None) -> float | None:
    return next((peak for name, peak in PEAK_TFLOPS if gpu and name in gpu), None)
