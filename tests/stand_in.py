"""A tiny model of the same architecture, for testing on a laptop what will run on a cluster with the real one.

    small = shrink(AutoConfig.from_pretrained("meta-llama/Llama-3.1-8B-Instruct"), vocab_size=3072)
    model = AutoModelForCausalLM.from_config(small)           # a LlamaForCausalLM of some 0.3 million parameters

What decides which code runs is kept: model class, grouped-query ratio, attention against hidden width, kinds of layers,
tied embeddings, biases, activation, rotary scaling, router. Only sizes shrink. No architecture is known by name.
Latent attention and state-space layers, whose sizes are bound to each other in ways of their own, are not covered.
"""

from typing import Any, TypeVar

Config = TypeVar("Config")  # a transformers.PreTrainedConfig of a text model

WINDOW = 16  # tokens, so that a sliding window slides even in a short test
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
FEED_FORWARD = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
NOT_SHAPE = ("transformers_version", "dtype", "loss_type")


def shrink(config: Config, vocab_size: int = 512) -> Config:
    """A new config of the same class: `vocab_size` tokens, two layers, or one of each kind where there are several."""
    if isinstance(getattr(config, "depths", None), list):
        return _shrink_stages(config)
    kept = _layers_to_keep(config)
    values = {key: value for key, value in config.to_dict().items() if key not in NOT_SHAPE}
    small = {key: _of_layers(value, kept, config.num_hidden_layers) for key, value in values.items()}
    sizes = _attention(config) | {"num_hidden_layers": len(kept), "vocab_size": vocab_size}
    native = type(config).attribute_map  # the common name -> the architecture's own, for example hidden_size -> n_embd
    small |= {native.get(name, name): size for name, size in sizes.items() if name != "head_dim" or name in values}
    small |= {"num_decoder_layers": len(kept)} if "num_decoder_layers" in small else {}
    _narrow(small, sizes["hidden_size"] / config.hidden_size)
    _cut_rotary_factors(small, sizes["head_dim"])
    _clip_special_tokens(small, vocab_size)
    return type(config)(**small)


def _shrink_stages(config: Any) -> Any:
    """Of a model of pictures that halves them from stage to stage: one layer a stage, eight channels a head."""
    values = {key: value for key, value in config.to_dict().items() if key not in NOT_SHAPE}
    heads = config.num_attention_heads
    small = {"depths": [1] * len(heads), "hidden_sizes": [8 * number for number in heads], "decoder_hidden_size": 16}
    return type(config)(**values | {key: value for key, value in small.items() if key in values})


def _layers_to_keep(config: Any) -> list[int]:
    """Indices of the first layer of each kind; of two layers where all are alike."""
    kinds = getattr(config, "layer_types", None) or []
    first = sorted({kinds.index(kind) for kind in kinds})
    return first if len(first) > 1 else [0, 1]


def _of_layers(value: Any, kept: list[int], number: int) -> Any:
    """A list with one entry a layer keeps those of the kept layers."""
    return [value[index] for index in kept] if isinstance(value, list) and len(value) == number else value


def _attention(config: Any) -> dict[str, int]:
    """Heads in the same ratio to key-value heads, their total width in the same ratio to the hidden width."""
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    queries = heads // (groups or heads)  # heads that share one key-value head
    small_groups = 1 if groups == 1 or queries > 4 else 2
    small_heads = small_groups * queries
    head_dim = 16 if small_heads <= 4 else 8
    full_width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    hidden_size = round(small_heads * head_dim * config.hidden_size / full_width / 8) * 8
    sizes = {"hidden_size": hidden_size, "num_attention_heads": small_heads, "head_dim": head_dim}
    return sizes | ({"num_key_value_heads": small_groups} if groups else {})


def _narrow(small: dict[str, Any], ratio: float) -> None:
    """Feed-forward widths in the same ratio as the hidden width; four experts, of which no more than two answer."""
    for key, value in small.items():
        if isinstance(value, int) and any(name in key for name in FEED_FORWARD):
            small[key] = max(8, round(value * ratio / 8) * 8)
        elif key in EXPERTS and value:
            small[key] = 4
        elif key == "num_experts_per_tok" and value:
            small[key] = min(value, 2)
        elif key == "sliding_window" and value:
            small[key] = WINDOW


def _cut_rotary_factors(small: dict[str, Any], head_dim: int) -> None:
    """Scaling factors that are listed per frequency (longrope) keep one entry for each frequency that is left."""
    for key in ("rope_parameters", "rope_scaling"):
        parameters = small.get(key)
        if isinstance(parameters, dict):
            share = parameters.get("partial_rotary_factor") or small.get("partial_rotary_factor") or 1.0
            frequencies = int(head_dim * share) // 2
            small[key] = {k: v[:frequencies] if isinstance(v, list) else v for k, v in parameters.items()}


def _clip_special_tokens(small: dict[str, Any], vocab_size: int) -> None:
    """Ids beyond the vocabulary become its last one."""
    for key, value in small.items():
        if key.endswith("_token_id") and isinstance(value, int):
            small[key] = min(value, vocab_size - 1)
        elif key.endswith("_token_id") and isinstance(value, list):
            small[key] = sorted({min(token, vocab_size - 1) for token in value})
