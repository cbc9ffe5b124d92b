"""The part of DeepSpeed's configuration that memory depends on, and how it groups what is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from launcher.model_facts import Weight

FP32, HALF = 4, 2
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
    "leaf_module",
}


@dataclass(frozen=True)
class Choices:
    """The part of DeepSpeed's configuration that memory depends on. `bf16`: all weights are kept in it."""

    stage: int
    bf16: bool
    autocast: bool
    offload_optimizer: str
    offload_param: str
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, deepspeed: Mapping[str, Any]) -> "Choices":
        zero = deepspeed["zero_optimization"]
        return cls(
            stage=zero["stage"],
            bf16=deepspeed.get("bf16", {}).get("enabled", False),
            autocast=deepspeed.get("torch_autocast", {}).get("enabled", False),
            offload_optimizer=zero.get("offload_optimizer", {}).get("device", "none"),
            offload_param=zero.get("offload_param", {}).get("device", "none"),
            sizes={name: int(zero.get(name, value)) for name, value in DEFAULTS.items()},
        )

    @property
    def bucket(self) -> int:
        return self.sizes["reduce_bucket_size"]

    def exchanged_items(self, trained: Sequence[Weight], item: int) -> list[int]:
        """Bytes of an element in each of the buckets: one for every type in which gradients are exchanged."""
        return sorted({HALF if self.autocast and weight.linear else item for weight in trained})


def not_followed(deepspeed: Mapping[str, Any]) -> list[str]:
    """Keys of a user's configuration that may change the memory, and are not reckoned with."""
    return sorted(deepspeed["zero_optimization"].keys() - FOLLOWED - HARMLESS)


def parameter_groups(trained: Sequence[Weight]) -> list[list[Weight]]:
    """The trained weights by the optimizer's groups, in their order within each."""
    by_group = sorted(trained, key=lambda weight: weight.group)
    return [list(members) for _, members in groupby(by_group, key=lambda weight: weight.group)]


def ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def numel_of(weights: Sequence[Weight]) -> int:
    return sum(weight.numel for weight in weights)
