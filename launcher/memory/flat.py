"""zero1 and zero2: the trained weights of a parameter group lie in one flat tensor, padded so that ranks own equal parts of it.

Of its part a rank keeps an fp32 copy and the optimizer's states, and under zero2 only the gradients of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from launcher.memory.shares import Setting, Share
from launcher.memory.zero_choices import FP32, HALF, Choices, ceil, numel_of, parameter_groups
from launcher.model_facts import Weight

ALIGNMENT = 2  # elements of a flat tensor per rank
FALLBACK_BUCKET = 500_000_000  # elements that zero1 with bf16 weights reduces at once


@dataclass(frozen=True)
class Flat:
    """A parameter group as one tensor. `numels`: of its weights, in their order; `part`: elements that a rank owns."""

    numels: tuple[int, ...]
    part: int
    world_size: int

    @classmethod
    def of(cls, group: Sequence[Weight], world_size: int) -> "Flat":
        numels = tuple(weight.numel for weight in group)
        return cls(numels, ALIGNMENT * ceil(sum(numels), ALIGNMENT * world_size), world_size)

    @property
    def padded(self) -> int:
        return self.part * self.world_size

    def touched(self, rank: int) -> int:
        """Elements of all weights that lie in a rank's part, if only in parts of theirs: DeepSpeed keeps their whole gradients."""
        first, last = rank * self.part, (rank + 1) * self.part
        ends = zip(self.numels, accumulate(self.numels), strict=True)
        return sum(numel for numel, end in ends if end > first and end - numel < last)

    def padding(self, rank: int) -> int:
        """Elements of a rank's part that belong to no weight."""
        return min(self.part, max(0, (rank + 1) * self.part - sum(self.numels)))


def share(setting: Setting, choices: Choices) -> Share:
    """Bytes of a rank under zero1 or zero2, as DeepSpeed 0.19 allocates them (Rajbhandari et al., arXiv:1910.02054)."""
    trained, item = setting.trained, setting.trained_item
    flats = [Flat.of(group, setting.world_size) for group in parameter_groups(trained)]
    padded, part = sum(flat.padded for flat in flats), sum(flat.part for flat in flats)
    masters = FP32 * part
    states = sum(
        setting.state_bytes((flat.part,), FP32, group[0].hidden)
        for flat, group in zip(flats, parameter_groups(trained), strict=True)
    )
    weights = setting.frozen_bytes + padded * item
    if choices.stage == 1 and choices.bf16 and choices.offload_optimizer == "none":
        # Gradients of both types: the backward pass leaves bf16 ones, which are added to fp32 ones.
        reduced = HALF * padded + FP32 * min(padded, FALLBACK_BUCKET)
        return Share(
            weights,
            FP32 * padded + item * numel_of(trained),
            masters + states,
            exchange=max(reduced, setting.largest_gradient),
        )
    gradients, bucket_item = _flat_gradients(setting, choices, flats)
    buckets = choices.bucket * bucket_item * len(choices.exchanged_items(trained, item))
    again = gradients if setting.accumulates and choices.stage == 2 and not choices.bf16 else 0
    made = Share(
        weights=weights,
        gradients=gradients,
        optimizer=masters + states,
        communication=buckets,
        exchange=setting.largest_gradient + choices.bucket * bucket_item + again,
        update=FP32 * max(flat.part for flat in flats),
    )
    return made if choices.offload_optimizer == "none" else _flat_offloaded(made, setting, choices, flats)


def _flat_gradients(setting: Setting, choices: Choices, flats: Sequence[Flat]) -> tuple[int, int]:
    """The most bytes of gradients at once, and the bytes of an element of the buckets.

    zero1 keeps all gradients until the last micro-batch. Under zero2 those of the part are kept: with bf16 weights as one
    fp32 tensor, else the whole gradient of every weight that the part touches.
    """
    apart = choices.bf16  # accumulated in another type than that of the weights
    part = FP32 * (sum(flat.part for flat in flats) if apart else _most_touched(flats, with_padding=True))
    if choices.stage == 2:
        return part, setting.trained_item
    whole = FP32 * numel_of(setting.trained)
    if apart:  # after the exchange, what lies in the bucket is not let go before the next forward pass
        return max(whole, FP32 * choices.bucket) + part, FP32
    return max(whole, part), FP32


def _flat_offloaded(made: Share, setting: Setting, choices: Choices, flats: Sequence[Flat]) -> Share:
    """The fp32 copy, its gradient and the states go to the node's memory, with buffers for the way there on both sides."""
    item, part = setting.trained_item, sum(flat.part for flat in flats)
    buffer = item * max(weight.numel for weight in setting.trained)
    adds_up_there = setting.accumulates and choices.stage == 2 and not choices.bf16
    accumulated = item * _most_touched(flats, with_padding=False) if adds_up_there else 0
    kept = made.gradients if choices.stage == 1 or choices.bf16 else 0
    return Share(
        weights=made.weights,
        gradients=kept,
        optimizer=0,
        communication=made.communication + buffer,
        exchange=made.exchange,
        host=made.optimizer + (FP32 + item) * part + buffer + accumulated,
    )


def _most_touched(flats: Sequence[Flat], with_padding: bool) -> int:
    ranks = range(flats[0].world_size)
    return max(sum(flat.touched(r) + (flat.padding(r) if with_padding else 0) for flat in flats) for r in ranks)
