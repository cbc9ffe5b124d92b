"""Learning-rate schedules: pure functions from progress to a factor of the base learning rate.

Each takes `progress` in [0, 1] over the steps after warmup, the final factor `min_lr_ratio`, and `decay_share`, the last part of
the run in which `wsd` decays. A resumed run needs no schedule state: the step number is enough.
"""

import math
from collections.abc import Callable


def constant(progress: float, min_lr_ratio: float, decay_share: float) -> float:
    return 1.0


def linear(progress: float, min_lr_ratio: float, decay_share: float) -> float:
    return 1.0 - (1.0 - min_lr_ratio) * progress


def cosine(progress: float, min_lr_ratio: float, decay_share: float) -> float:
    """Half a cosine from 1 to `min_lr_ratio` (Loshchilov and Hutter, arXiv:1608.03983, one cycle)."""
    return min_lr_ratio + (1.0 - min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))


def exponential(progress: float, min_lr_ratio: float, decay_share: float) -> float:
    """Geometric decay from 1 to `min_lr_ratio`, which must be above zero."""
    return math.pow(min_lr_ratio, progress)


def wsd(progress: float, min_lr_ratio: float, decay_share: float) -> float:
    """Warmup, stable, decay (Hu et al., arXiv:2404.06395), here linear over the last `decay_share` (arXiv:2405.18392)."""
    if decay_share <= 0 or progress <= 1.0 - decay_share:
        return 1.0
    return 1.0 - (1.0 - min_lr_ratio) * (progress - (1.0 - decay_share)) / decay_share


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    f.__name__: f for f in (constant, linear, cosine, exponential, wsd)
}


def factor(name: str, step: int, total_steps: int, warmup_steps: int, min_lr_ratio: float, decay_steps: int) -> float:
    """Factor for optimizer step `step` (0-based) of `total_steps`; linear warmup reaches 1 at step `warmup_steps`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    steps_after_warmup = max(1, total_steps - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / steps_after_warmup)
    return SCHEDULES[name](progress, min_lr_ratio, min(1.0, decay_steps / steps_after_warmup))
