"""Prefix tuning: keys and values that every layer attends to, before every input (Li and Liang, arXiv:2101.00190), through PEFT."""

from inspect import signature
from typing import Any

from launcher import prompts
from launcher.errors import RecipeError
from launcher.prompts import merge as merge
from launcher.prompts import plain as plain


class Config(prompts.PromptOptions):
    """The options of prefix tuning."""


def apply(model: Any, config: Config) -> Any:
    """The model wrapped by PEFT."""
    import peft

    if "past_key_values" not in signature(type(model.base_model).forward).parameters:
        raise RecipeError(
            f"a {type(model).__name__} takes no keys and values from before", fix="set method: prompt_tuning"
        )
    return prompts.apply(model, config, peft.PrefixTuningConfig)
