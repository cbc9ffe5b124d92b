"""A class for every pixel of a picture."""

from typing import Annotated

from pydantic import Field

from launcher.section import Section
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForSemanticSegmentation",
    pipeline_tag="image-segmentation",
    formats=("masked_image", "mask_folder"),
    metrics=(
        "loss",
        "mean_iou",
        "mean_dice",
        "mean_accuracy",
        "pixel_accuracy",
        "mean_iou_per_image",
        "mean_dice_per_image",
    ),
    default_metrics=("loss", "mean_iou", "mean_dice", "pixel_accuracy"),
    data_keys=("image_size", "ignore_index"),
    processor="image_processor",
    reads="image",
    label_column="labels",
    has_new_head=True,
    unit="images",
    target_names=("labels", "sizes", "references"),
    crops_pictures=False,
    augments="pictures",
)


class Config(Section):
    """Cross-entropy of each pixel, of which those that are ignored do not count."""

    dice_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of 1 - soft Dice of each picture, mean over the classes (Milletari et al., arXiv:1606.04797), beside it."""
