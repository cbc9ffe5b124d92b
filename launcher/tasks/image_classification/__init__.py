"""A label, or several, for a picture."""

from typing import Annotated

from pydantic import Field

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
    has_label_per_row=True,
    unit="images",
    augments="pictures",
)


class Config(Classification):
    """The options of the loss."""

    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Mixup (Zhang et al., arXiv:1710.09412): pictures of a micro-batch are added in pairs, in shares of a Beta(alpha, alpha) whose
    labels count by their share; usually 0.1 to 0.8; 0 is none."""
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    """CutMix (Yun et al., arXiv:1905.04899): a rectangle comes from another picture of the micro-batch; usually 1. With
    mixup_alpha, each micro-batch takes one of the two."""
