"""A tag for each word: names of persons and places, parts of speech."""

from launcher.objectives.options import Classification
from launcher.task import Traits

METRICS = ("loss", "f1", "precision", "recall", "token_accuracy", "f1_macro")

TRAITS = Traits(
    auto_class="AutoModelForTokenClassification",
    pipeline_tag="token-classification",
    formats=("tagged_tokens", "conll", "conllu"),
    metrics=METRICS,
    default_metrics=METRICS,  # of which spans have f1, precision and recall, and other tags f1_macro
    label_column="tags",
    has_new_head=True,
    reads="text",
    text_column="text",
    on_truncate="split",
    target_names=("labels", "is_word"),
    peft_task_type="TOKEN_CLS",
)


class Config(Classification):
    """The options of the loss."""
