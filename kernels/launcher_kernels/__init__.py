"""Losses over large vocabularies that never hold all logits at once. Needs torch only."""

from launcher_kernels.linear_cross_entropy import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
