"""What every loss of this package returns."""

from typing import NamedTuple

from torch import Tensor

EXTRAS = ("correct", "argmax", "entropy", "logsumexp", "z_loss")


class CrossEntropy(NamedTuple):
    """The loss, and what `returns` asked for (None otherwise). Only the loss is differentiable.

    Attributes:
        loss: scalar, or of the target's shape under `reduction="none"`; at least fp32.
        correct: how many arg-maxima hit their target, int64 scalar. Of equal logits the first one counts.
        argmax: class of the largest logit, int64, the target's shape; -1 where the target is ignored.
        entropy: of the softmax, in nats, at least fp32, the target's shape; 0 where the target is ignored.
        logsumexp: of the logits, at least fp32, the target's shape; 0 where the target is ignored.
        z_loss: the share of the z-loss in `loss`, a scalar.
    """

    loss: Tensor
    correct: Tensor | None = None
    argmax: Tensor | None = None
    entropy: Tensor | None = None
    logsumexp: Tensor | None = None
    z_loss: Tensor | None = None
