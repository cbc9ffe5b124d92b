"""Losses over large vocabularies that never hold all logits at once. Needs torch; on a GPU, triton as well."""

from launcher_kernels.choice import Choice, choose
from launcher_kernels.cross_entropy import cross_entropy
from launcher_kernels.heads import SlicedWeight, VocabShard
from launcher_kernels.linear_cross_entropy import linear_cross_entropy
from launcher_kernels.output import CrossEntropy

__all__ = ["Choice", "CrossEntropy", "SlicedWeight", "VocabShard", "choose", "cross_entropy", "linear_cross_entropy"]
