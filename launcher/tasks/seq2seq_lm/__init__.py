"""A text into another: translation, summaries, with an encoder and a decoder (T5, BART, Marian...)."""

from launcher.objectives.options import Tokens
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


class Config(Tokens):
    """Cross-entropy of the target's tokens."""
