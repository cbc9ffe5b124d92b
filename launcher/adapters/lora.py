"""LoRA: low-rank updates beside frozen linear layers (Hu et al., arXiv:2106.09685), through PEFT."""

from typing import Any

from launcher import lora
from launcher.lora import LoraOptions


class Config(LoraOptions):
    """The options of LoRA."""


def apply(model: Any, config: Config) -> Any:
    """The model wrapped by PEFT."""
    return lora.apply_lora(model, config)


def plain(model: Any) -> Any:
    """The form in which the adapter is written: against the base model as it is on disk."""
    return lora.plain_lora(model)


def merge(model: Any) -> Any:
    """The base model with the update folded into its weights."""
    return lora.merge_lora(model)


def lr_scale(name: str, ndim: int, config: Config, learning_rate: float) -> float:
    """LoRA+: factor on the learning rate of the parameter `name` with `ndim` dimensions."""
    return lora.lr_scale(name, ndim, config, learning_rate)
