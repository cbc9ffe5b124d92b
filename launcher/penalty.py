"""Penalties on weights, which a step adds to the loss once."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class Penalty:
    """l1 times the sum of magnitudes of all that is `penalized`, and group_lasso times the sum over the inputs of a head of
    sqrt(weights of an input) * their Euclidean norm (Yuan and Lin, 2006, equation 2.1), which shrink together."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], l1: float, group_lasso: float):
        self.l1, self.group_lasso = l1, group_lasso
        self._penalized = [p for group in groups if group.get("penalized") for p in group["params"]]
        self._heads = [p for group in groups if group.get("head") for p in group["params"]]

    def __bool__(self) -> bool:
        return bool(self.l1 or self.group_lasso)

    def __call__(self) -> Tensor | float:
        magnitudes = sum(p.float().abs().sum() for p in self._penalized) if self.l1 else 0.0
        lengths = sum(map(_of_inputs, self._heads)) if self.group_lasso else 0.0
        return self.l1 * magnitudes + self.group_lasso * lengths


def _of_inputs(weight: Tensor) -> Tensor:
    """weight (outputs, inputs, ...)"""
    by_input = weight.float().transpose(0, 1).flatten(1)
    total: Tensor = by_input.shape[1] ** 0.5 * by_input.norm(dim=1).sum()
    return total
