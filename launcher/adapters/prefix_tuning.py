"""Prefix tuning: keys and values that every layer attends to, before every input (Li and Liang, arXiv:2101.00190), through PEFT."""

from typing import Any

from launcher import prompts
from launcher.prompts import merge as merge


class Config(prompts.PromptOptions):
    """The options of prefix tuning."""


def apply(model: Any, config: Config) -> Any:
    """The model wrapped by PEFT."""
    import peft

    return prompts.apply(model, config, peft.PrefixTuningConfig)
