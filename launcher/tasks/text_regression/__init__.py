"""A number for a text or a pair of texts."""

from launcher.objectives.options import Regression
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForSequenceClassification",
    pipeline_tag="text-classification",
    formats=("labelled_text",),
    metrics=("loss", "mse", "rmse", "mae", "pearson", "spearman", "r2"),
    default_metrics=("loss", "mse", "mae", "pearson", "spearman", "r2"),
    has_new_head=True,
    reads="text",
    peft_task_type="SEQ_CLS",
    augments="texts",
)


class Config(Regression):
    """The options of the loss."""
