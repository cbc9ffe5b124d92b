"""AdamW with moments of 8 bits in memory that CUDA moves between GPU and CPU as it is needed, from bitsandbytes."""

from math import prod
from typing import Any

from launcher import adam

ELEMENTWISE = False  # 256 elements share a scale, and flattened shards would cut through them
NEEDS_GPU = True


class Config(adam.AdamOptions):
    name: str = "paged_adamw_8bit"


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    optim = adam.bitsandbytes(config.name)
    return adam.stay_paged(
        optim.PagedAdamW8bit(param_groups, **config.as_arguments(), min_8bit_size=adam.SMALLEST_8BIT)
    )


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """The GPU need not hold them all at once."""
    return adam.state_bytes_8bit(prod(shape))
