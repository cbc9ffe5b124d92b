"""AdamW with moments of 8 bits, 256 elements to a scale (Dettmers et al., arXiv:2110.02861), from bitsandbytes; on a CPU, too."""

from math import prod
from typing import Any

from launcher import adam

ELEMENTWISE = False  # 256 elements share a scale, and flattened shards would cut through them


class Config(adam.AdamOptions):
    name: str = "adamw_8bit"


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    return adam.bitsandbytes(config.name).AdamW8bit(
        param_groups, **config.as_arguments(), min_8bit_size=adam.SMALLEST_8BIT
    )


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    return adam.state_bytes_8bit(prod(shape))
