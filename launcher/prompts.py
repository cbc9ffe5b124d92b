"""Prompts that are learned, beside a model that stays as it is, through PEFT: what `prompt_tuning` and `prefix_tuning` share.

Heavy imports stand inside functions, because the options are read before torch is.
"""

from typing import Annotated, Any

from pydantic import Field

from launcher.errors import RecipeError
from launcher.section import Section

TASKS = {  # whose outputs PEFT gives as they are, or behind the prompt
    "prompt_tuning": ("causal_lm", "text_classification", "text_regression", "seq2seq_lm"),
    "prefix_tuning": ("causal_lm", "text_classification", "text_regression"),
}
METHODS = tuple(TASKS)


class PromptOptions(Section):
    num_virtual_tokens: Annotated[int, Field(ge=1)] = 20
    """Length of the prompt in tokens; they count among the model's positions."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full and saved beside the prompt, a new output head in any case."""


def apply(model: Any, options: PromptOptions, make_config: Any, **more: Any) -> Any:
    """The model wrapped by PEFT, all but the prompt and a new head frozen, and what is trained in fp32.

    `make_config`: PEFT's configuration, made of `more` besides. RecipeError for a model that cannot have such a prompt.
    """
    import peft

    from launcher import token_rows

    head = getattr(model, "head_modules", ())
    try:
        wrapped = peft.get_peft_model(
            model,
            make_config(
                task_type=getattr(model, "peft_task_type", "CAUSAL_LM"),
                num_virtual_tokens=options.num_virtual_tokens,
                num_transformer_submodules=1,
                modules_to_save=[*options.modules_to_save, *head] or None,
                **more,
            ),
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise RecipeError(
            f"PEFT puts no prompt before a {type(model).__name__}: {error}", fix="set method: lora"
        ) from error
    token_rows.keep_copies_in_fp32(wrapped)
    wrapped.prompt_encoder.float()
    return wrapped


def is_before(model: Any) -> bool:
    """Whether a learned prompt stands before the inputs of a model."""
    return bool(getattr(model, "_is_prompt_learning", False))


def plain(model: Any) -> Any:
    """The form in which the prompt is written: what is trained in full in the type of the base, as PEFT reads it."""
    from launcher import token_rows

    token_rows.round_copies(model)
    return model


def merge(model: Any) -> Any:
    raise RecipeError("a prompt is no part of the weights, so it cannot be merged", fix="set export.merge=false")
