"""A label, or several, for a sound: wav2vec2, HuBERT, AST, Whisper's encoder..."""

from launcher.objectives.options import Classification
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForAudioClassification",
    formats=("labelled_audio", "audio_folder"),
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
    data_keys=("max_seconds", "on_truncate"),
    processor="feature_extractor",
    reads="audio",
    label_column="labels",
    has_new_head=True,
    unit="clips",
    target_names=("labels", "lengths"),
)


class Config(Classification):
    """The options of the loss."""
