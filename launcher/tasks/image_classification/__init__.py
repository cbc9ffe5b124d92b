"""A label, or several, for a picture."""

from launcher.objectives.options import LABEL_METRICS, USUAL_LABEL_METRICS, Classification
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForImageClassification",
    pipeline_tag="image-classification",
    formats=("labelled_image", "image_folder"),
    metrics=LABEL_METRICS,
    default_metrics=USUAL_LABEL_METRICS,
    data_keys=("image_size",),
    processor="image_processor",
    reads="image",
    label_column="labels",
    has_new_head=True,
    unit="images",
)


class Config(Classification):
    """The options of the loss."""
