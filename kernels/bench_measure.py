"""Clock, memory counter and time limit."""

import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

L2_BYTES = 256 * 2**20  # more than any GPU's L2 cache


class OutOfTime(BaseException):
    """No `Exception`: one that is measured must not catch it."""


class Deadline:
    """Checked before every call; the alarm ends what takes too long inside of one, a compilation for example."""

    def __init__(self, seconds: float | None):
        self.seconds = seconds
        self.end = None if not seconds else time.monotonic() + seconds

    def check(self) -> None:
        if self.end is not None and time.monotonic() > self.end:
            raise OutOfTime

    @contextmanager
    def alarm(self) -> Iterator[None]:
        if self.end is None:
            yield
            return
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.end - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _ring(self, *_: object) -> None:
        raise OutOfTime


class Times(NamedTuple):
    """Seconds. `processor` is summed over the threads of a CPU, which a shared machine disturbs less; a GPU has none."""

    wall: float
    processor: float


class Clock:
    """Of a call: CUDA events on a GPU. `cold` empties the GPU's L2 cache before."""

    def __init__(self, device: str, cold: bool):
        self.device = device
        self.flood = torch.empty(L2_BYTES, dtype=torch.int8, device=device) if cold and device == "cuda" else None

    def times(self, call: Callable[[], Any]) -> Times:
        return self._of_cpu(call) if self.device == "cpu" else Times(self._of_gpu(call), math.nan)

    def _of_cpu(self, call: Callable[[], Any]) -> Times:
        start, busy = time.perf_counter(), time.process_time()
        _result = call()  # freed after the clock has stopped, as an optimizer would
        return Times(time.perf_counter() - start, time.process_time() - busy)

    def _of_gpu(self, call: Callable[[], Any]) -> float:
        if self.flood is not None:
            self.flood.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        _result = call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


def peak_bytes(call: Callable[[], Any], device: str) -> tuple[Any, int]:
    """The call's result, and the most bytes that it had allocated at one time, the result included."""
    if device == "cpu":
        return _cpu_peak(call)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    return result, torch.cuda.max_memory_allocated() - before


def _cpu_peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """From PyTorch's own record of every allocation. VmHWM agrees to 0.2 %, and is less where freed memory is used again."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return result, most


def returned_bytes(gradients: list[Tensor], inputs: list[Tensor]) -> int:
    """Of gradients that have memory of their own."""
    old = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    new = [gradient for gradient in gradients if gradient.untyped_storage().data_ptr() not in old]
    return sum(gradient.nbytes for gradient in new)


def spread(seconds: list[float]) -> dict[str, float]:
    """In ms."""
    ordered = sorted(1000 * each for each in seconds)

    def share(part: float) -> float:
        return ordered[round(part * (len(ordered) - 1))]

    median = statistics.median(ordered)
    return {"min": ordered[0], "p20": share(0.2), "p50": median, "p80": share(0.8), "rounds": len(ordered)}
