"""What one rank holds whatever the batch, in bytes: weights, gradients, states of the optimizer, and buffers of exchange.

Pure arithmetic on shapes, to the byte, so that a plan and the engine can be compared. Where ranks differ (the last part of a
flattened group is padded), it is the rank that holds most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from launcher.model_facts import Weight

StateBytes = Callable[
    [tuple[int, ...], int, bool], int
]  # from shape, bytes of an element, and whether it is a hidden matrix


@dataclass(frozen=True)
class Share:
    """Bytes of one rank on its device, and what it keeps in the memory of the node instead (`host`).

    `exchange` and `update` are estimates of what is there only for a moment: in the forward and backward pass, and while the
    optimizer steps.
    """

    weights: int
    gradients: int
    optimizer: int
    communication: int = 0
    exchange: int = 0
    update: int = 0
    host: int = 0

    @property
    def held(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.communication


@dataclass(frozen=True)
class Setting:
    """What the bytes follow from. `frozen_item` and `trained_item`: bytes of an element."""

    weights: Sequence[Weight]
    frozen_item: int
    trained_item: int
    world_size: int
    accumulates: bool
    state_bytes: StateBytes

    @property
    def trained(self) -> list[Weight]:
        return [weight for weight in self.weights if weight.trained]

    def bytes_of(self, weight: Weight) -> int:
        if weight.stored is not None:
            return weight.stored.codes + weight.stored.scales
        return weight.numel * (self.trained_item if weight.trained else self.frozen_item)

    @property
    def largest_gradient(self) -> int:
        """Bytes of the gradient of one weight, as it is before it is added to what it belongs to."""
        return self.trained_item * max(weight.numel for weight in self.trained)

    @property
    def frozen_bytes(self) -> int:
        return sum(self.bytes_of(weight) for weight in self.weights if not weight.trained)


def replicated(setting: Setting) -> Share:
    """Strategies none and ddp: every rank holds everything.

    DistributedDataParallel keeps buckets as large as the gradients. Where a step has one micro-batch they are the gradients;
    otherwise those of the first micro-batches are held beside them.
    """
    gradients = sum(setting.bytes_of(weight) for weight in setting.trained)
    return Share(
        weights=setting.frozen_bytes + gradients,
        gradients=gradients,
        optimizer=sum(setting.state_bytes(w.shape, setting.trained_item, w.hidden) for w in setting.trained),
        communication=gradients if setting.world_size > 1 and setting.accumulates else 0,
        exchange=setting.largest_gradient if setting.accumulates else 0,
    )
