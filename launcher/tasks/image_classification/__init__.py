"""A label, or several, for a picture."""

from launcher.objectives.options import Classification
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForImageClassification",
    formats=("labelled_image", "image_folder"),
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
    data_keys=("image_size",),
    processor="image_processor",
    reads="image",
    label_column="labels",
    has_new_head=True,
    unit="images",
)


class Config(Classification):
    """The options of the loss."""
