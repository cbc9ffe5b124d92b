"""A number for a row."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher.data.context import Context
from launcher.losses import Loss
from launcher.objectives.options import Regression
from launcher.task import LossPlan


def plan_loss(model: Any, options: Regression, method: str) -> LossPlan:
    return LossPlan(options.name, "loss.name")


def build(model: Any, options: Regression, context: Context) -> "Objective":
    return Objective(model, options)


class Objective(nn.Module):
    """A model with logits (rows, 1) and its loss. Labels: (rows,) fp32, NaN is no label."""

    def __init__(self, model: Any, options: Regression):
        super().__init__()
        self.model, self.options = model, options

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        return {"values": float((~batch["labels"].isnan()).sum())}

    def forward(self, labels: Tensor, counts: dict[str, float] | None = None, **inputs: Tensor) -> Loss:
        values = self.model(**inputs).logits.squeeze(-1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        known = ~labels.isnan()
        each = self._distance(values, torch.where(known, labels, 0).to(values.dtype))
        count = (counts or self.counts({"labels": labels}))["values"]
        total = torch.where(known, each, 0).sum()
        return Loss({"values": (total, count, 1.0)}, {}, None if self.training else {"values": values})

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[float]:
        return [float(value) for value in outputs["values"]]

    def _distance(self, values: Tensor, targets: Tensor) -> Tensor:
        if self.options.name == "huber":
            return functional.huber_loss(values, targets, reduction="none", delta=self.options.huber_delta)
        distance = functional.mse_loss if self.options.name == "mse" else functional.l1_loss
        return distance(values, targets, reduction="none")
