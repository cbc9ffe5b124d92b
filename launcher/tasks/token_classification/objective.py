"""The loss of a tag for each word."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from launcher.data.context import Context
from launcher.losses import IGNORED, Loss
from launcher.objectives import classification, twice
from launcher.objectives.options import Classification
from launcher.task import LossPlan


def plan_loss(model: Any, options: Classification, method: str) -> LossPlan:
    name = f"cross-entropy{classification.in_words(model, options)}"
    return LossPlan(name, "one tag a word, on its first piece", passes=twice.passes(options.r_drop_alpha))


def build(model: Any, options: Classification, context: Context) -> "Objective":
    assert context.labels is not None
    classification.refuse_both(options)
    weights = classification.weights_of(options, context.labels, context.label_counts)
    return Objective(model, options, weights)


class Objective(nn.Module):
    """A model with logits (rows, tokens, tags) and its loss. Labels: (rows, tokens) int64, -100 is no label."""

    weights: Tensor | None

    def __init__(self, model: Any, options: Classification, weights: Tensor | None = None):
        super().__init__()
        self.model, self.r_drop_alpha = model, options.r_drop_alpha
        self.label_smoothing, self.focal_gamma = options.label_smoothing, options.focal_gamma
        self.register_buffer("weights", weights, persistent=False)

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Weight of the tagged words: their number where tags weigh the same."""
        counts = {"words": classification.weight_of(batch["labels"], self.weights)}
        return counts | ({"r_drop": twice.count(batch["labels"] != IGNORED)} if self._goes_twice else {})

    def forward(
        self, labels: Tensor, is_word: Tensor, counts: dict[str, float] | None = None, **inputs: Tensor
    ) -> Loss:
        logits = self.model(**twice.doubled(inputs) if self._goes_twice else inputs).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        count = (counts or self.counts({"labels": labels}))["words"]
        if not self._goes_twice:
            return Loss(
                {"words": (self._sum(logits, labels), count, 1.0)}, {}, None if self.training else {"logits": logits}
            )
        sum_of = partial(self._sum, labels=labels)
        total, apart = twice.both(logits, sum_of, labels != IGNORED, self.r_drop_alpha)
        return Loss({"words": (total, count, 1.0), "r_drop": apart}, {}, None)

    @property
    def _goes_twice(self) -> bool:
        return self.training and self.r_drop_alpha > 0

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return classification.cross_entropy(logits, labels, self.weights, self.label_smoothing, self.focal_gamma)

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Of each row, (words with a piece, 2) fp32: number and probability of the likeliest tag."""
        scores, numbers = outputs["logits"].float().softmax(-1).max(-1)
        both = torch.stack([numbers.to(scores.dtype), scores], -1).cpu()
        return [row[mask].numpy() for row, mask in zip(both, batch["is_word"].bool().cpu(), strict=True)]
