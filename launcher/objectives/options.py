"""What a recipe may say under `loss` for the losses of this package."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from launcher.data.labels import Labels
from launcher.errors import RecipeError
from launcher.section import Section, freeze
from launcher.suggest import did_you_mean

# Of rows with one label, or with several (subset_accuracy and what follows; see launcher.metrics.classification).
LABEL_METRICS = (
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
)
USUAL_LABEL_METRICS = ("loss", "accuracy", "subset_accuracy", "f1_macro", "f1_micro")  # those that the rows can have

Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], AfterValidator(freeze)]


R_DROP_PIECE = 1 << 24  # logits of tokens in one pass that are compared at a time


class Twice(Section):
    """What losses with probabilities have in common."""

    r_drop_alpha: Annotated[float, Field(ge=0)] = 0.0
    """R-Drop (Liang et al., arXiv:2106.14448): each row goes through the model twice, and what dropout makes differ costs this
    much; the paper takes 0.3 to 5. Twice the time; 0 is none."""


class Tokens(Twice):
    """Cross-entropy of tokens."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over the vocabulary (Szegedy et al., arXiv:1512.00567); in training only."""


class Classification(Twice):
    """Cross-entropy for one label of a row or of a word, binary cross-entropy where a row may have several."""

    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Exponent of the focal loss (Lin et al., arXiv:1708.02002): (1 - p) ** focal_gamma times the cross-entropy of a label of
    probability p, so that what is learned already counts less; 0 is plain cross-entropy."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all labels (Szegedy et al., arXiv:1512.00567); not with several a row."""
    class_weights: Literal["balanced"] | Weights | None = None
    """Weight by the label: {name: weight}, 1 for those left out; balanced: rows / (labels x rows of the label), or words."""


def insist_on_labels(weights: Mapping[str, float], labels: Labels) -> None:
    """RecipeError for weights of labels that there are not."""
    if unknown := [name for name in weights if name not in labels.numbers]:
        hint = did_you_mean(unknown[0], labels.names)
        raise RecipeError(
            f"loss.class_weights: there is no label {unknown[0]}{hint}", fix=f"labels: {', '.join(labels.names)}"
        )


class Regression(Section):
    """The distance of one number from another."""

    name: Literal["mse", "mae", "huber"] = "mse"
    """Squared error, absolute error, or squared up to huber_delta and absolute beyond (Huber, 1964)."""
    huber_delta: Annotated[float, Field(gt=0)] = 1.0
    """Where huber turns from squared to absolute."""
