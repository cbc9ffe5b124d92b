"""Prompt tuning: embeddings of tokens that do not exist, before every input (Lester et al., arXiv:2104.08691), through PEFT."""

from typing import Any, Literal

from pydantic import model_validator

from launcher import prompts
from launcher.errors import RecipeError
from launcher.prompts import merge as merge
from launcher.prompts import plain as plain


class Config(prompts.PromptOptions):
    """The options of prompt tuning."""

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Where the prompt starts: small random numbers, the embeddings of random tokens, or those of a text."""
    prompt_tuning_init_text: str | None = None
    """The text, repeated or cut to num_virtual_tokens; it is read by the tokenizer of the base model."""

    @model_validator(mode="after")
    def _text_where_it_is_read(self) -> "Config":
        if (self.prompt_tuning_init == "TEXT") != bool((self.prompt_tuning_init_text or "").strip()):
            raise ValueError("prompt_tuning_init: TEXT and prompt_tuning_init_text go together; give both or neither")
        return self


def apply(model: Any, config: Config) -> Any:
    """The model wrapped by PEFT."""
    import peft

    if hasattr(
        model, "score"
    ):  # of decoders; transformers looks for the last token by its id, which an embedding has not
        raise RecipeError(
            f"a {type(model).__name__} cannot tell the last token of a text from padding once prompt_tuning has embedded it",
            fix="set method: prefix_tuning or lora",
        )
    return prompts.apply(
        model,
        config,
        peft.PromptTuningConfig,
        prompt_tuning_init=config.prompt_tuning_init,
        prompt_tuning_init_text=config.prompt_tuning_init_text,
        tokenizer_name_or_path=model.config._name_or_path if config.prompt_tuning_init == "TEXT" else None,
    )
