"""QLoRA: LoRA beside a base whose linear layers are stored in 4 or 8 bits (Dettmers et al., arXiv:2305.14314)."""

from typing import Any

from launcher.lora import LoraOptions, apply_lora


class Config(LoraOptions):
    """The options of LoRA; how the base is stored is said under `quantization`."""


def apply(model: Any, config: Config) -> Any:
    return apply_lora(model, config)


def merge(model: Any) -> Any:
    """A model without quantised weights: what the base stores, plus the update, rounded once."""
    from launcher.dequantize import merge_quantized

    return merge_quantized(model)
