"""The loss of a tag for each word."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from launcher.data.context import Context
from launcher.losses import Loss
from launcher.objectives import classification
from launcher.objectives.options import OneLabel
from launcher.task import LossPlan


def plan_loss(model: Any, options: OneLabel, method: str) -> LossPlan:
    return LossPlan(f"cross-entropy{classification.focal_words(options)}", "one tag a word, on its first piece")


def build(model: Any, options: OneLabel, context: Context) -> "Objective":
    assert context.labels is not None
    classification.refuse_both(options)
    weights = classification.weights_of(options, context.labels, context.label_counts)
    return Objective(model, options.label_smoothing, weights, options.focal_gamma)


class Objective(nn.Module):
    """A model with logits (rows, tokens, tags) and its loss. Labels: (rows, tokens) int64, -100 is no label."""

    weights: Tensor | None

    def __init__(
        self, model: Any, label_smoothing: float = 0.0, weights: Tensor | None = None, focal_gamma: float = 0.0
    ):
        super().__init__()
        self.model, self.label_smoothing, self.focal_gamma = model, label_smoothing, focal_gamma
        self.register_buffer("weights", weights, persistent=False)

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Weight of the tagged words: their number where tags weigh the same."""
        return {"words": classification.weight_of(batch["labels"], self.weights)}

    def forward(
        self, labels: Tensor, is_word: Tensor, counts: dict[str, float] | None = None, **inputs: Tensor
    ) -> Loss:
        logits = self.model(**inputs).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = classification.cross_entropy(logits, labels, self.weights, self.label_smoothing, self.focal_gamma)
        count = (counts or self.counts({"labels": labels}))["words"]
        return Loss({"words": (total, count, 1.0)}, {}, None if self.training else {"logits": logits})

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Of each row, (words with a piece, 2) fp32: number and probability of the likeliest tag."""
        scores, numbers = outputs["logits"].float().softmax(-1).max(-1)
        both = torch.stack([numbers.to(scores.dtype), scores], -1).cpu()
        return [row[mask].numpy() for row, mask in zip(both, batch["is_word"].bool().cpu(), strict=True)]
