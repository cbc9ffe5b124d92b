"""LoRA: low-rank updates beside frozen linear layers (Hu et al., arXiv:2106.09685), through PEFT."""

from typing import Any

from launcher.lora import LoraOptions, apply_lora, merge_lora


class Config(LoraOptions):
    """The options of LoRA."""


def apply(model: Any, config: Config) -> Any:
    return apply_lora(model, config)


def merge(model: Any) -> Any:
    return merge_lora(model)
