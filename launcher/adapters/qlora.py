"""QLoRA: LoRA beside a base whose linear layers are stored in 4 or 8 bits (Dettmers et al., arXiv:2305.14314)."""

from typing import Any

from launcher import lora
from launcher.lora import LoraOptions


class Config(LoraOptions):
    """The options of LoRA; how the base is stored is said under `quantization`."""


def apply(model: Any, config: Config) -> Any:
    """The model wrapped by PEFT."""
    from launcher import quantize

    return lora.apply_lora(
        model, config, quantize.original_weights(model) if config.init_lora_weights == "loftq" else None
    )


def plain(model: Any) -> Any:
    """The form in which the adapter is written: against the base model as it is on disk, quantised in the same way."""
    return lora.plain_lora(model)


def merge(model: Any) -> Any:
    """A model without quantised weights: what the base stores, plus the update, rounded once."""
    from launcher import dequantize, token_rows

    model = lora.plain_lora(model)
    token_rows.untie_where_lora_stands(model)
    return dequantize.merge_quantized(model)


def lr_scale(name: str, ndim: int, config: Config, learning_rate: float) -> float:
    """LoRA+: factor on the learning rate of the parameter `name` with `ndim` dimensions."""
    return lora.lr_scale(name, ndim, config, learning_rate)
