"""Lion with a momentum of 8 bits, 256 elements to a scale (Dettmers et al., arXiv:2110.02861), from bitsandbytes; on a CPU, too."""

from math import prod
from typing import Any

from launcher import adam
from launcher.optimizers import lion

ELEMENTWISE = False  # 256 elements share a scale, and flattened shards would cut through them


class Config(lion.Config):
    name: str = "lion_8bit"


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    return adam.bitsandbytes(config.name).Lion8bit(
        param_groups, lr=config.learning_rate, betas=config.betas, min_8bit_size=adam.SMALLEST_8BIT
    )


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """One momentum: half of what AdamW keeps."""
    return adam.state_bytes_8bit(prod(shape)) // 2
