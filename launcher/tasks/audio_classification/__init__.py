"""A label, or several, for a sound: wav2vec2, HuBERT, AST, Whisper's encoder..."""

from launcher.objectives.options import LABEL_METRICS, USUAL_LABEL_METRICS, Classification
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForAudioClassification",
    pipeline_tag="audio-classification",
    formats=("labelled_audio", "audio_folder"),
    metrics=LABEL_METRICS,
    default_metrics=USUAL_LABEL_METRICS,
    data_keys=("max_seconds", "on_truncate"),
    processor="feature_extractor",
    reads="audio",
    label_column="labels",
    has_new_head=True,
    has_label_per_row=True,
    unit="clips",
    target_names=("labels", "lengths"),
)


class Config(Classification):
    """The options of the loss."""
