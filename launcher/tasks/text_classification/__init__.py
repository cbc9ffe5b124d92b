"""A label, or several, for a text or a pair of texts."""

from launcher.objectives.options import Classification
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForSequenceClassification",
    formats=("labelled_text",),
    metrics=(
        "loss",
        "accuracy",
        "top5_accuracy",
        "f1_macro",
        "f1_micro",
        "f1_weighted",
        "precision_macro",
        "recall_macro",
        "auroc",
        "mcc",
        "subset_accuracy",
        "hamming_loss",
        "precision_micro",
        "recall_micro",
    ),
    default_metrics=("loss", "accuracy", "subset_accuracy", "f1_macro", "f1_micro"),
    label_column="labels",
    has_new_head=True,
    reads="text",
    peft_task_type="SEQ_CLS",
)


class Config(Classification):
    """The options of the loss."""
