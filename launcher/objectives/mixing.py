"""Pictures of a micro-batch mixed with each other while a model trains, and how much of itself each still is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Partners(NamedTuple):
    """`rows`: (rows,) with which row each is mixed. `share`: of a picture that is its own; the rest is its partner's."""

    rows: Tensor
    share: float


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al., arXiv:1710.09412) adds two pictures, CutMix (Yun et al., arXiv:1905.04899) puts a rectangle of one into
    the other. One share, of a Beta(alpha, alpha), for a micro-batch; with both, one of the two by the toss of a coin.

    Drawn from the generator that is seeded for each micro-batch, so a resumed run draws the same.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Partners]:
        """`pixel_values` (rows, channels, height, width) mixed, all else as it is."""
        pixels = inputs["pixel_values"]
        cuts = bool(self.cutmix_alpha) and (not self.mixup_alpha or float(torch.rand(())) < 0.5)
        alpha = torch.tensor(self.cutmix_alpha if cuts else self.mixup_alpha, dtype=torch.float64)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        rows = torch.randperm(len(pixels)).to(pixels.device)
        if cuts:
            mixed, share = _cut(pixels, pixels[rows], share)
        else:
            mixed = share * pixels + (1 - share) * pixels[rows]
        return {**inputs, "pixel_values": mixed}, Partners(rows, share)


def _cut(own: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """A rectangle of about 1 - share of the picture, anywhere, cut off at its borders; and the share that is left."""
    height, width = own.shape[-2:]
    side, centre = (1 - share) ** 0.5, torch.rand(2, dtype=torch.float64)
    top, bottom = _span(float(centre[0]) * height, side * height, height)
    left, right = _span(float(centre[1]) * width, side * width, width)
    mixed = own.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(centre: float, length: float, limit: int) -> tuple[int, int]:
    return max(0, round(centre - length / 2)), min(limit, round(centre + length / 2))
