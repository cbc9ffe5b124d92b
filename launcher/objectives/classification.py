"""One label of several for a row, or any number of them; what all losses of one label share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher.data.context import Context
from launcher.data.labels import Labels
from launcher.errors import RecipeError
from launcher.losses import IGNORED, Loss
from launcher.objectives import twice
from launcher.objectives.inputs import in_type_of
from launcher.objectives.mixing import Mixing, Partners
from launcher.objectives.options import Classification, insist_on_labels
from launcher.task import LossPlan

Look = Callable[[Any, dict[str, Tensor]], Tensor]
MULTI_LABEL, SINGLE_LABEL = "multi_label_classification", "single_label_classification"


def plan_loss(model: Any, options: Classification, method: str) -> LossPlan:
    more, passes = in_words(model, options), twice.passes(options.r_drop_alpha)
    if model.config.problem_type == MULTI_LABEL:
        return LossPlan(f"binary cross-entropy{more}", "a row may have several labels", passes=passes)
    return LossPlan(f"cross-entropy{more}", "one label a row", passes=passes)


def in_words(model: Any, options: Classification) -> str:
    """What is more than cross-entropy, where the model can have it."""
    twice.insist_on_dropout(model, options.r_drop_alpha)
    weights = "balanced" if options.class_weights == "balanced" else "given"
    more = {
        f"focal with gamma {options.focal_gamma:g}": options.focal_gamma,
        f"label smoothing {options.label_smoothing:g}": options.label_smoothing,
        f"{weights} weights of labels": options.class_weights,
    }
    return "".join(f", {words}" for words, given in more.items() if given) + twice.in_words(options.r_drop_alpha)


def logits_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """(rows, labels)"""
    logits: Tensor = model(**in_type_of(model, inputs)).logits
    return logits


def build(
    model: Any, options: Classification, context: Context, look: Look = logits_of, mixing: Mixing | None = None
) -> "Objective":
    """`look`: how a batch goes through the model. `mixing`: of its rows, while it trains."""
    assert context.labels is not None
    several = context.head.get("problem_type") == MULTI_LABEL
    if several and (options.label_smoothing or options.class_weights):
        key = "label_smoothing" if options.label_smoothing else "class_weights"
        raise RecipeError(f"loss.{key} is for one label a row, and these rows may have several", fix="take it out")
    refuse_both(options)
    weights = weights_of(options, context.labels, context.label_counts)
    return Objective(model, options, several, weights, look, mixing)


def refuse_both(options: Classification) -> None:
    if options.focal_gamma and options.label_smoothing:
        raise RecipeError(
            "loss.focal_gamma: a smoothed target has no one probability to weigh it by",
            fix="set loss.label_smoothing=0.0",
        )


def weights_of(options: Classification, labels: Labels, counts: tuple[int, ...]) -> Tensor | None:
    """(labels,) fp32. Balanced as in scikit-learn: rows / (labels * rows of the label), 1 for one that never occurs."""
    given = options.class_weights
    if given is None:
        return None
    if given == "balanced":
        total = sum(counts)
        return torch.tensor([total / (len(labels) * count) if count else 1.0 for count in counts])
    insist_on_labels(given, labels)
    return torch.tensor([float(given.get(name, 1.0)) for name in labels.names])


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, label_smoothing: float, focal_gamma: float = 0.0
) -> Tensor:
    """The sum over all labels but those of -100. logits (..., labels), labels (...) int64, weights (labels,)."""
    rows, wanted = logits.flatten(0, -2), labels.flatten()
    if not focal_gamma:
        return functional.cross_entropy(
            rows, wanted, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )
    each = functional.nll_loss(rows.log_softmax(-1), wanted, ignore_index=IGNORED, reduction="none")
    if weights is not None:
        return (weights[wanted.clamp(min=0)] * focal(each, focal_gamma)).sum()
    return focal(each, focal_gamma).sum()


def focal(cross_entropies: Tensor, gamma: float) -> Tensor:
    """(1 - p) ** gamma times each -log p (Lin et al., arXiv:1708.02002, equation 4). Any shape; 0 stays 0."""
    missing: Tensor = -torch.expm1(-cross_entropies)  # 1 - p, exact where p is nearly 1
    return missing.clamp(min=torch.finfo(missing.dtype).tiny) ** gamma * cross_entropies


def weight_of(labels: Tensor, weights: Tensor | None) -> float:
    """What `cross_entropy` is divided by: the weight of all labels but those of -100, their number where they weigh the same."""
    known = labels[labels != IGNORED]
    return float(known.numel() if weights is None else weights.to(labels.device)[known].double().sum())


class Objective(nn.Module):
    """A model with logits (rows, labels) and its loss. Labels: (rows,) int64, or (rows, labels) fp32; -100 is no label."""

    weights: Tensor | None

    def __init__(
        self,
        model: Any,
        options: Classification,
        several: bool = False,
        weights: Tensor | None = None,
        look: Look = logits_of,
        mixing: Mixing | None = None,
    ):
        super().__init__()
        self.model, self.several, self.look, self.mixing = model, several, look, mixing
        self.label_smoothing, self.focal_gamma = options.label_smoothing, options.focal_gamma
        self.r_drop_alpha = options.r_drop_alpha
        self.register_buffer("weights", weights, persistent=False)

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Weight of the labelled rows: their number where labels weigh the same. Of several labels a row, each counts."""
        counts = {"labels": weight_of(batch["labels"], self.weights)}
        return counts | ({"r_drop": twice.count(self._known(batch["labels"]))} if self._goes_twice else {})

    def forward(self, labels: Tensor, counts: dict[str, float] | None = None, **inputs: Tensor) -> Loss:
        partners = None
        if self.training and self.mixing:
            inputs, partners = self.mixing(inputs)
        logits = self.look(self.model, twice.doubled(inputs) if self._goes_twice else inputs)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        count = (counts or self.counts({"labels": labels}))["labels"]
        if not self._goes_twice:
            total = self._mixed_sum(logits, labels, partners)
            return Loss({"labels": (total, count, 1.0)}, {}, None if self.training else {"logits": logits})
        sum_of = partial(self._mixed_sum, labels=labels, partners=partners)
        total, apart = twice.both(logits, sum_of, self._known(labels), self.r_drop_alpha, self.several)
        return Loss({"labels": (total, count, 1.0), "r_drop": apart}, {}, None)

    @property
    def _goes_twice(self) -> bool:
        return self.training and self.r_drop_alpha > 0

    def _known(self, labels: Tensor) -> Tensor:
        """(rows,) bool: which have labels."""
        known = labels != IGNORED
        return known.any(-1) if self.several else known

    def _mixed_sum(self, logits: Tensor, labels: Tensor, partners: Partners | None) -> Tensor:
        """Of rows that are partly others, the loss of both labels by their shares."""
        if partners is None:
            return self._sum(logits, labels)
        own, others = self._sum(logits, labels), self._sum(logits, labels[partners.rows])
        return partners.share * own + (1 - partners.share) * others

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self.several:
            return cross_entropy(logits, labels, self.weights, self.label_smoothing, self.focal_gamma)
        each = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        return torch.where(labels != IGNORED, focal(each, self.focal_gamma) if self.focal_gamma else each, 0).sum()

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Probabilities (labels,) of each row: of one label or, where there may be several, of each by itself."""
        logits = outputs["logits"].float()
        return list((logits.sigmoid() if self.several else logits.softmax(-1)).cpu().numpy())
