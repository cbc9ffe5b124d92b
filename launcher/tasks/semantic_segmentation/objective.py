"""The loss of a class for every pixel, and the classes of every pixel of the picture as it was."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher.data import masks
from launcher.data.context import Context
from launcher.losses import Loss
from launcher.metrics import segmentation
from launcher.task import LossPlan
from launcher.tasks.semantic_segmentation import Config

CLASSES_AT_ONCE = 16  # that are enlarged: a large picture times many classes would not fit
SMALL_PIXELS = 512  # a side, of masks that people look at
SMOOTHING = 1.0  # pixels; so that a class that is in neither mask has a Dice of 1


class Segmented(NamedTuple):
    """`mask`: a PNG of the classes. `counts`: (n, 3) reference, predicted, pixels; None without a reference."""

    mask: bytes
    counts: np.ndarray | None


def plan_loss(model: Any, options: Config, method: str) -> LossPlan:
    if options.dice_weight:
        return LossPlan(f"cross-entropy + {options.dice_weight:g} x soft Dice", "loss.dice_weight")
    return LossPlan("cross-entropy", "a class for every pixel")


def build(model: Any, options: Config, context: Context) -> "Objective":
    return Objective(model, options.dice_weight)


class Objective(nn.Module):
    """A model with logits (rows, classes, height, width) and its loss. Labels: (rows, height, width) uint8, 255 is none."""

    def __init__(self, model: Any, dice_weight: float = 0.0):
        super().__init__()
        self.model, self.dice_weight = model, dice_weight

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Pixels with a label, and pictures that have one."""
        known = batch["labels"] != masks.IGNORED
        counts = {"pixels": float(known.sum())}
        return counts | ({"pictures": float(known.flatten(1).any(1).sum())} if self.dice_weight else {})

    def forward(
        self,
        labels: Tensor,
        counts: dict[str, float] | None = None,
        sizes: Tensor | None = None,
        references: Tensor | None = None,
        **inputs: Tensor,
    ) -> Loss:
        logits = self.model(**inputs).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        enlarged = _enlarged(logits, labels.shape[-2:])
        count = counts or self.counts({"labels": labels})
        pixels = functional.cross_entropy(enlarged, labels.long(), ignore_index=masks.IGNORED, reduction="sum")
        terms = {"pixels": (pixels, count["pixels"], 1.0)}
        if self.dice_weight:
            terms["pictures"] = (self.dice_weight * dice_losses(enlarged, labels).sum(), count["pictures"], 1.0)
        return Loss(terms, {}, None if self.training else {"logits": logits})

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[Segmented]:
        """Of each picture in its own size; beside a reference, what of it agrees and a small copy."""
        found = []
        for place, (height, width) in enumerate(batch["sizes"].tolist()):
            mask = most_likely(outputs["logits"][place], (height, width)).cpu().numpy()
            if "references" not in batch:
                found.append(Segmented(masks.encoded(mask), None))
                continue
            reference = batch["references"][place, :height, :width].cpu().numpy()
            pixels = segmentation.counts(mask, reference, outputs["logits"].shape[1], masks.IGNORED)
            pairs = np.argwhere(pixels)
            small = masks.resized(mask, masks.small_size(height, width, SMALL_PIXELS))
            counted = np.concatenate([pairs, pixels[tuple(pairs.T)][:, None]], axis=1)
            found.append(Segmented(masks.encoded(small), counted))
        return found


def dice_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(pictures,) 1 - mean over classes of (2 sum p y + s) / (sum p + sum y + s), over pixels with a label; 0 without any."""
    known = labels != masks.IGNORED
    wanted = functional.one_hot(torch.where(known, labels, 0).long(), logits.shape[1]).permute(0, 3, 1, 2)
    wanted = wanted * known[:, None]
    probabilities = logits.softmax(1) * known[:, None]
    both = (probabilities * wanted).sum((2, 3))
    dice = (2 * both + SMOOTHING) / (probabilities.sum((2, 3)) + wanted.sum((2, 3)) + SMOOTHING)
    return (1 - dice.mean(1)) * known.flatten(1).any(1)


def most_likely(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(height, width) uint8: the class with the greatest of logits (classes, h, w) enlarged to `size`; the first of equals."""
    best: Tensor | None = None
    for first in range(0, len(logits), CLASSES_AT_ONCE):
        values, places = _enlarged(logits[None, first : first + CLASSES_AT_ONCE], size)[0].max(0)
        places = (places + first).to(torch.uint8)
        if best is None:
            best, found = values, places
        else:
            found = torch.where(values > best, places, found)
            best = torch.maximum(best, values)
    return found


def _enlarged(logits: Tensor, size: Any) -> Tensor:
    """As transformers does, in its losses and its post-processing."""
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
