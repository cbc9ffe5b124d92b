"""AdamW with fp32 moments in memory that CUDA moves between GPU and CPU as it is needed, from bitsandbytes."""

from math import prod
from typing import Any

from launcher import adam

ELEMENTWISE = True
NEEDS_GPU = True


class Config(adam.AdamOptions):
    name: str = "paged_adamw"


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    return adam.stay_paged(adam.bitsandbytes(config.name).PagedAdamW(param_groups, **config.as_arguments()))


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """Two fp32 moments; the GPU need not hold them all at once."""
    return 8 * prod(shape)
