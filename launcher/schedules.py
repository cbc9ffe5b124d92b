"""Learning-rate schedules: pure functions from a step to a factor of the base learning rate.

Each takes the step `t` in [0, length] after the warmup, the `length` in steps of all that follows the warmup, and `Options`. A
resumed run needs no schedule state: the step number is enough.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

RISE_FROM = 1 / 25  # where one_cycle begins, as a share of its peak


@dataclass(frozen=True)
class Options:
    """What a schedule may read; `OPTIONS` says which reads what. `decay_steps`, `step_size`, `timescale`: in steps."""

    min_lr_ratio: float = 0.0
    decay_steps: int = 0
    num_cycles: int = 1
    power: float = 1.0
    step_size: int = 1
    gamma: float = 1.0
    timescale: int = 1
    patience: int = 0


def constant(t: float, length: int, options: Options) -> float:
    return 1.0


def linear(t: float, length: int, options: Options) -> float:
    return 1.0 - (1.0 - options.min_lr_ratio) * t / length


def cosine(t: float, length: int, options: Options) -> float:
    """Half a cosine from 1 to `min_lr_ratio` (Loshchilov and Hutter, arXiv:1608.03983, one cycle)."""
    return _half_cosine(t / length, options.min_lr_ratio)


def cosine_with_restarts(t: float, length: int, options: Options) -> float:
    """`num_cycles` half cosines of equal length, each from 1 to `min_lr_ratio` (arXiv:1608.03983, T_mult = 1)."""
    cycles = options.num_cycles * t / length
    return _half_cosine(1.0 if t >= length else cycles % 1.0, options.min_lr_ratio)


def polynomial(t: float, length: int, options: Options) -> float:
    """(1 - t / length) ** power above `min_lr_ratio` (Liu et al., arXiv:1506.04579)."""
    return options.min_lr_ratio + (1.0 - options.min_lr_ratio) * math.pow(1.0 - t / length, options.power)


def exponential(t: float, length: int, options: Options) -> float:
    """Geometric decay from 1 to `min_lr_ratio`, which must be above zero."""
    return math.pow(options.min_lr_ratio, t / length)


def step(t: float, length: int, options: Options) -> float:
    """`gamma` ** n after n times `step_size` steps, never below `min_lr_ratio`."""
    return max(options.min_lr_ratio, math.pow(options.gamma, t // options.step_size))


def inverse_sqrt(t: float, length: int, options: Options) -> float:
    """sqrt(timescale / (timescale + t)); with the warmup as timescale that of Vaswani et al., arXiv:1706.03762, section 5.3."""
    return max(options.min_lr_ratio, math.sqrt(options.timescale / (options.timescale + t)))


def one_cycle(t: float, length: int, options: Options) -> float:
    """Half a cosine down to `min_lr_ratio`; its warmup is half a cosine up (Smith and Topin, arXiv:1708.07120; momentum stays)."""
    return _half_cosine(t / length, options.min_lr_ratio)


def reduce_on_plateau(t: float, length: int, options: Options) -> float:
    """Constant by itself; evaluations lower it, see `launcher.plateau`."""
    return 1.0


def wsd(t: float, length: int, options: Options) -> float:
    """Warmup, stable, decay (Hu et al., arXiv:2404.06395), here linear over the last `decay_steps` (arXiv:2405.18392)."""
    decay_steps = min(length, options.decay_steps)
    left = length - t
    return 1.0 if left >= decay_steps else options.min_lr_ratio + (1.0 - options.min_lr_ratio) * left / decay_steps


def _half_cosine(progress: float, low: float) -> float:
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float, int, Options], float]] = {
    f.__name__: f
    for f in (
        constant,
        linear,
        cosine,
        cosine_with_restarts,
        polynomial,
        exponential,
        step,
        inverse_sqrt,
        one_cycle,
        reduce_on_plateau,
        wsd,
    )
}
# Schedule -> the keys that it reads and others do not.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("power",),
    "step": ("step_size", "gamma"),
    "inverse_sqrt": ("timescale",),
    "reduce_on_plateau": ("gamma", "patience"),
    "wsd": ("decay_steps",),
}


def factor(name: str, step: int, total_steps: int, warmup_steps: int, options: Options) -> float:
    """Factor for optimizer step `step` (0-based) of `total_steps`; the warmup reaches 1 at step `warmup_steps`."""
    if step < warmup_steps:
        return _rise(name, step, warmup_steps)
    length = max(1, total_steps - warmup_steps)
    return SCHEDULES[name](min(step - warmup_steps, length), length, options)


def _rise(name: str, step: int, warmup_steps: int) -> float:
    """Linear, from above zero; that of one_cycle is half a cosine."""
    if name == "one_cycle":
        return RISE_FROM + (1.0 - RISE_FROM) * 0.5 * (1.0 - math.cos(math.pi * step / warmup_steps))
    return (step + 1) / (warmup_steps + 1)
