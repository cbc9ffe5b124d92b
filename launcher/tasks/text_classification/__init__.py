"""A label, or several, for a text or a pair of texts."""

from launcher.objectives.options import LABEL_METRICS, USUAL_LABEL_METRICS, Classification
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForSequenceClassification",
    pipeline_tag="text-classification",
    formats=("labelled_text",),
    metrics=LABEL_METRICS,
    default_metrics=USUAL_LABEL_METRICS,
    label_column="labels",
    has_new_head=True,
    has_label_per_row=True,
    reads="text",
    peft_task_type="SEQ_CLS",
    augments="texts",
)


class Config(Classification):
    """The options of the loss."""
