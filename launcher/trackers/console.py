"""One live line with what a person watches: progress, time left, loss, learning rate, gradient norm, speed, memory."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher import log


class Console:
    def __init__(self, total_steps: int):
        self._total, self._first = total_steps, None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            log.live(self._progress(step, values))
        evaluated = {name.removeprefix("eval/"): value for name, value in values.items() if name.startswith("eval/")}
        if evaluated:
            log.say(
                f"evaluation at step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in evaluated.items())
            )

    def close(self) -> None:
        log.finish_live()

    def _progress(self, step: int, values: Mapping[str, float]) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        done = step - self._first[0]
        left = (now - self._first[1]) / done * (self._total - step) if done else None
        return (
            f"step {step}/{self._total}  epoch {values['epoch']:.2f}  loss {values['train/loss']:.4f}"
            f"  lr {values['train/learning_rate']:.2e}  {_gradient(values)}"
            f"  {_speed(values)}  {values['train/peak_memory_gib']:.2f} GiB  ETA {_clock(left)}"
        )


def _gradient(values: Mapping[str, float]) -> str:
    return f"grad {values['train/grad_norm']:.2f}" if "train/grad_norm" in values else "step skipped"


def _speed(values: Mapping[str, float]) -> str:
    """`1,234 tokens/s`, or what else the task counts."""
    name = next(name for name in values if name.endswith("_per_second"))
    return f"{values[name]:,.{0 if values[name] >= 10 else 1}f} {name.removeprefix('train/').removesuffix('_per_second')}/s"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def open(folder: Path, plan: Any) -> Console:
    return Console(plan.total_steps)
