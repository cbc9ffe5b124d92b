"""Boxes with labels in a picture."""

from typing import Annotated

from pydantic import Field

from launcher.section import Section
from launcher.task import Traits

Coefficient = Annotated[float, Field(ge=0)]

TRAITS = Traits(
    auto_class="AutoModelForObjectDetection",
    pipeline_tag="object-detection",
    formats=("boxed_image", "coco", "voc"),
    metrics=("loss", "map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100"),
    default_metrics=("loss", "map", "map_50", "map_75", "mar_100"),
    data_keys=("image_size",),
    processor="image_processor",
    reads="image",
    label_column="labels",
    least_labels=1,
    has_new_head=True,
    unit="images",
    target_names=("class_labels", "boxes", "sizes"),
    output_names=("logits", "pred_boxes"),
    crops_pictures=False,
    augments="pictures",
)


class Config(Section):
    """Set prediction (Carion et al., arXiv:2005.12872): each object is learned by the query that it fits best."""

    eos_coefficient: Coefficient | None = None
    """Weight of queries without an object in the cross-entropy (DETR, YOLOS); null: as the model's configuration has it."""
    bbox_loss_coefficient: Coefficient | None = None
    """Weight of the L1 distance of boxes; null: as the model's configuration has it."""
    giou_loss_coefficient: Coefficient | None = None
    """Weight of 1 - generalised IoU of boxes (Rezatofighi et al., arXiv:1902.09630); null: as the model's configuration has it."""
