"""A text into another: translation, summaries, with an encoder and a decoder (T5, BART, Marian...)."""

from typing import Annotated

from pydantic import Field

from launcher.section import Section
from launcher.task import Traits

GENERATED = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")

TRAITS = Traits(
    auto_class="AutoModelForSeq2SeqLM",
    pipeline_tag="text2text-generation",
    formats=("source_target",),
    metrics=("loss", "perplexity", "token_accuracy", *GENERATED),
    default_metrics=("loss", "perplexity", "token_accuracy"),
    generated_metrics=GENERATED,
    data_keys=("max_length", "max_target_length", "on_truncate", "source_prefix"),
    reads="text",
    fast_tokenizer=False,
    target_names=(),  # of labels the model makes what its decoder begins with
    peft_task_type="SEQ_2_SEQ_LM",
)


class Config(Section):
    """Cross-entropy of the target's tokens."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over the vocabulary (Szegedy et al., arXiv:1512.00567); in training only."""
