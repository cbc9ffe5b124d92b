"""What one rank holds under ZeRO (Rajbhandari et al., arXiv:1910.02054), as DeepSpeed 0.19 allocates it.

zero1, zero2: the trained weights of a parameter group lie in one flat tensor, padded so that every rank can own an equal part;
of its part a rank keeps an fp32 copy and the optimizer's states, and under zero2 only the gradients of it.
zero3: of every weight a rank keeps a part of equal size; small weights stay gathered besides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from launcher.memory.shares import Setting, Share
from launcher.model_facts import Weight

FP32, HALF = 4, 2
ALIGNMENT = 2  # elements of a flat tensor per rank
FALLBACK_BUCKET = 500_000_000  # elements that zero1 with bf16 weights reduces at once
# DeepSpeed's own defaults, for what neither the launcher nor the user sets.
DEFAULTS = {
    "reduce_bucket_size": 500_000_000,
    "sub_group_size": 1_000_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "zero_hpz_partition_size": 1,
}
# What the arithmetic below follows, and what leaves it as it is; with other keys of a user the plan is less than exact.
FOLLOWED = {*DEFAULTS, "stage", "offload_optimizer", "offload_param", "allgather_bucket_size"}
HARMLESS = {
    "zero_quantized_weights",
    "zero_quantized_gradients",
    "log_trace_cache_warnings",
    "ignore_unused_parameters",
}


@dataclass(frozen=True)
class Choices:
    """The part of DeepSpeed's configuration that memory depends on. `half`: bf16 or fp16 where weights are kept in it."""

    stage: int
    half: str | None
    autocast: bool
    offload_optimizer: str
    offload_param: str
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, deepspeed: Mapping[str, Any]) -> "Choices":
        zero = deepspeed["zero_optimization"]
        enabled = [name for name in ("bf16", "fp16") if deepspeed.get(name, {}).get("enabled")]
        return cls(
            stage=zero["stage"],
            half=enabled[0] if enabled else None,
            autocast=deepspeed.get("torch_autocast", {}).get("enabled", False),
            offload_optimizer=zero.get("offload_optimizer", {}).get("device", "none"),
            offload_param=zero.get("offload_param", {}).get("device", "none"),
            sizes={name: int(zero.get(name, value)) for name, value in DEFAULTS.items()},
        )

    @property
    def bucket(self) -> int:
        return self.sizes["reduce_bucket_size"]

    @property
    def accumulated_item(self) -> int:
        """Bytes of an element of the gradients that micro-batches add up in."""
        return HALF if self.half == "fp16" else FP32

    def exchanged_items(self, trained: Sequence[Weight], item: int) -> list[int]:
        """Bytes of an element in each of the buckets: one for every type in which gradients are exchanged."""
        return sorted({HALF if self.autocast and weight.linear else item for weight in trained})


def share(setting: Setting) -> Share:
    """For zero1, zero2 and zero3."""
    assert setting.deepspeed is not None
    choices = Choices.of(setting.deepspeed)
    return _partitioned(setting, choices) if choices.stage == 3 else _flattened(setting, choices)


def not_followed(deepspeed: Mapping[str, Any]) -> list[str]:
    """Keys of a user's configuration that may change the memory, and are not reckoned with."""
    return sorted(deepspeed["zero_optimization"].keys() - FOLLOWED - HARMLESS)


# --- zero1, zero2 -----------------------------------------------------------------------------------------------------


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


def _flattened(setting: Setting, choices: Choices) -> Share:
    trained, item = setting.trained, setting.trained_item
    flats = [Flat.of(group, setting.world_size) for group in parameter_groups(trained)]
    padded, part = sum(flat.padded for flat in flats), sum(flat.part for flat in flats)
    masters = FP32 * part
    states = sum(
        setting.state_bytes((flat.part,), FP32, group[0].hidden)
        for flat, group in zip(flats, parameter_groups(trained), strict=True)
    )
    weights = setting.frozen_bytes + padded * item
    if choices.stage == 1 and choices.half == "bf16" and choices.offload_optimizer == "none":
        # Gradients of both types: the backward pass leaves bf16 ones, which are added to fp32 ones.
        reduced = HALF * padded + FP32 * min(padded, FALLBACK_BUCKET)
        return Share(weights, FP32 * padded + item * _numel(trained), masters + states, exchange=reduced)
    gradients, bucket_item = _flat_gradients(setting, choices, flats)
    buckets = choices.bucket * bucket_item * len(choices.exchanged_items(trained, item))
    again = gradients if setting.accumulates and choices.stage == 2 and choices.half != "bf16" else 0
    made = Share(
        weights=weights,
        gradients=gradients,
        optimizer=masters + states,
        communication=buckets,
        exchange=choices.bucket * bucket_item + again,
        update=choices.accumulated_item * max(flat.part for flat in flats),
    )
    return made if choices.offload_optimizer == "none" else _flat_offloaded(made, setting, choices, flats)


def _flat_gradients(setting: Setting, choices: Choices, flats: Sequence[Flat]) -> tuple[int, int]:
    """The most bytes of gradients at once, and the bytes of an element of the buckets.

    zero1 keeps all gradients until the last micro-batch. Under zero2 those of the part are kept: with bf16 weights as one
    fp32 tensor, else the whole gradient of every weight that the part touches.
    """
    apart = choices.half == "bf16"  # accumulated in another type than that of the weights
    item = choices.accumulated_item
    part = item * (sum(flat.part for flat in flats) if apart else _most_touched(flats, with_padding=True))
    if choices.stage == 2:
        return part, setting.trained_item
    whole = item * _numel(setting.trained)
    return (whole + part if apart else max(whole, part)), item


def _flat_offloaded(made: Share, setting: Setting, choices: Choices, flats: Sequence[Flat]) -> Share:
    """The fp32 copy, its gradient and the states go to the node's memory, with buffers for the way there on both sides."""
    item, part = setting.trained_item, sum(flat.part for flat in flats)
    apart = choices.half == "bf16"
    buffer = item * max(weight.numel for weight in setting.trained)
    adds_up_there = setting.accumulates and choices.stage == 2 and not apart
    accumulated = item * _most_touched(flats, with_padding=False) if adds_up_there else 0
    kept = made.gradients if choices.stage == 1 or apart else 0
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


# --- zero3 ------------------------------------------------------------------------------------------------------------


def _partitioned(setting: Setting, choices: Choices) -> Share:
    world, trained = setting.world_size, setting.trained
    part = sum(ceil(weight.numel, world) for weight in trained)
    weights, weights_on_host = _parts_of_weights(setting, choices)
    sub_groups = [numel for group in parameter_groups(trained) for numel in _sub_groups(group, world, choices)]
    states = sum(setting.state_bytes((numel,), FP32, False) for numel in sub_groups)
    gradients, optimizer = choices.accumulated_item * part, FP32 * part + states
    items = choices.exchanged_items(trained, setting.trained_item)
    second_copy = _second_copy(setting, choices)
    offloads = choices.offload_optimizer != "none"
    on_host = gradients + FP32 * part + (optimizer if choices.offload_optimizer == "cpu" else 0)
    return Share(
        weights=weights,
        gradients=0 if offloads else gradients,
        optimizer=0 if offloads else optimizer,
        communication=choices.bucket * sum(items) + second_copy,
        exchange=_gathered(setting, choices) + choices.bucket * max(items),
        update=0 if offloads else FP32 * max(sub_groups),
        host=weights_on_host + (on_host if offloads else 0),
    )


def _parts_of_weights(setting: Setting, choices: Choices) -> tuple[int, int]:
    """(bytes on the device, bytes on the host): the parts, and the small weights that stay gathered."""
    device = host = 0
    for weight in setting.weights:
        numel, item, scales = _as_parameter(weight, setting)
        part = item * ceil(numel, setting.world_size)
        stays = numel <= choices.sizes["stage3_param_persistence_threshold"]
        if choices.offload_param == "none" or (stays and not weight.trained):
            device += part
        elif choices.offload_param == "cpu":
            host += part
        is_copied = setting.world_size > 1 or choices.offload_param != "none"
        device += scales + (part * setting.world_size if stays and is_copied else 0)
    return device, host


def _as_parameter(weight: Weight, setting: Setting) -> tuple[int, int, int]:
    """(elements, bytes of one, bytes that belong to it and are not sharded): DeepSpeed sees the codes of a quantised weight."""
    if weight.stored is not None:
        return weight.stored.codes, 1, weight.stored.scales
    return weight.numel, setting.trained_item if weight.trained else setting.frozen_item, 0


def _sub_groups(group: Sequence[Weight], world_size: int, choices: Choices) -> list[int]:
    """Elements of each part of a group that the optimizer updates at once."""
    numels, size = [ceil(weight.numel, world_size) for weight in group], choices.sizes["sub_group_size"]
    made, open_one = [], 0
    for number, numel in enumerate(numels):
        open_one += numel
        if open_one >= size or number == len(numels) - 1:
            made.append(open_one)
            open_one = 0
    return made if sum(numels) > size else [sum(numels)]


def _gathered(setting: Setting, choices: Choices) -> int:
    """Bytes of whole weights at once: those that are prefetched, and the last ones of the forward pass, soon used again."""
    if setting.world_size == 1 and choices.offload_param == "none":
        return 0
    small = choices.sizes["stage3_param_persistence_threshold"]
    sizes = [_as_parameter(weight, setting) for weight in setting.weights]
    whole = [(numel, numel * item) for numel, item, _ in sizes if numel > small]
    if not whole:
        return 0
    prefetched, kept = choices.sizes["stage3_prefetch_bucket_size"], choices.sizes["stage3_max_reuse_distance"] // 2
    most = prefetched + kept + max(numel for numel, _ in whole)
    numel, number_of_bytes = sum(n for n, _ in whole), sum(b for _, b in whole)
    return (
        number_of_bytes * min(most + prefetched, numel) // numel
    )  # what is prefetched comes as one tensor, and is copied


def _second_copy(setting: Setting, choices: Choices) -> int:
    """ZeRO++ keeps another copy of the weights in parts within each node (Wang et al., arXiv:2306.10209)."""
    ranks = choices.sizes["zero_hpz_partition_size"]
    if ranks <= 1:
        return 0
    return sum(ceil(setting.bytes_of(weight), ranks) for weight in setting.weights)


# --- both -------------------------------------------------------------------------------------------------------------


def parameter_groups(trained: Sequence[Weight]) -> list[list[Weight]]:
    """The trained weights by the optimizer's groups, in their order within each."""
    by_group = sorted(trained, key=lambda weight: weight.group)
    return [list(members) for _, members in groupby(by_group, key=lambda weight: weight.group)]


def ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _numel(weights: Sequence[Weight]) -> int:
    return sum(weight.numel for weight in weights)
