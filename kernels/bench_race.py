"""One case: every provider is looked at once for its errors and memory, then all run in turns against the clock."""

import gc
import re
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from bench_cases import Case, Inputs, Preset
from bench_exact import Exact, errors
from bench_measure import Clock, Deadline, Times, peak_bytes, returned_bytes, spread
from bench_providers import Loss, Provider
from torch import Tensor

LONGEST_REASON = 200
BASE = "unfused"
Run = Callable[[Inputs], Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Racer:
    loss: Loss
    warm_seconds: float  # of a call after the first, or of the first where nothing is compiled


@dataclass(frozen=True)
class Comparison:
    """`results` are the numbers of each provider, filled as they come, so that an end of time leaves what there is."""

    case: Case
    inputs: Inputs
    truth: Exact
    preset: Preset
    clock: Clock
    deadline: Deadline
    results: dict[str, dict[str, Any]]

    def compare(self, providers: list[Provider]) -> None:
        racers = {}
        for provider in providers:
            numbers = self.results.setdefault(provider.name, {})
            if reason := self.obstacle(provider):
                numbers["skipped"] = reason
                continue
            self.deadline.check()
            racer = attempt(numbers, lambda each=provider, numbers=numbers: self.look(each, numbers))
            if racer is not None:
                racers[provider.name] = racer
        seconds = self.preset.seconds_per_case
        self.race(racers, with_gradient, "forward_backward_ms", "time_ratio", seconds)
        if self.case.hidden:
            self.race(racers, without_gradient, "forward_ms", "forward_time_ratio", seconds / 3)

    def obstacle(self, provider: Provider) -> str | None:
        if provider.name == "torch.compile" and not self.case.compiled:
            return "left out of this case, for its time; name it with --providers"
        return provider.obstacle(self.case, self.clock.device)

    def look(self, provider: Provider, numbers: dict[str, Any]) -> Racer:
        """The first call, errors and memory, none of which belongs into a race."""
        loss = provider.build(self.inputs)
        if note := provider.describe(self.inputs):
            numbers["note"] = note
        numbers["first_call_s"] = seconds = self.call(loss, numbers, with_errors=True)
        if provider.compiles or self.clock.device == "cuda":  # compiling and tuning took memory, too
            seconds = self.call(loss, numbers)
            without_gradient(loss)(self.inputs.fresh())  # compiled separately
        return Racer(loss, seconds)

    def call(self, loss: Loss, numbers: dict[str, Any], with_errors: bool = False) -> float:
        """Seconds of a call with a memory counter running."""
        given, run = self.inputs.fresh(), with_gradient(loss)
        result, peak = peak_bytes(lambda: timed(lambda: run(given)), self.clock.device)
        (value, gradients), seconds = result
        numbers["extra_bytes"] = peak - returned_bytes(list(gradients.values()), list(given.trained().values()))
        if with_errors:
            few = self.case.error_rows
            numbers["error"] = errors(*(run(self.inputs.first(few)) if few else (value, gradients)), self.truth)
        return seconds

    def race(
        self, racers: dict[str, Racer], kind: Callable[[Loss], Run], name: str, ratio: str, seconds: float
    ) -> None:
        """In every round each runs once, and rounds begin with another one each time."""
        rounds: list[dict[str, Times]] = []
        begin = time.monotonic()
        try:
            while self.goes_on(len(rounds), time.monotonic() - begin, seconds):
                rounds.append({})
                self.one_round(self.order(racers, len(rounds) - 1), kind, rounds[-1])
        finally:
            self.sum_up(rounds[self.warm_up() :], name, ratio)

    def warm_up(self) -> int:
        return int(self.clock.device == "cuda")

    def goes_on(self, done: int, spent: float, seconds: float) -> bool:
        done -= self.warm_up()
        return done < self.preset.least or (done < self.preset.most and spent < seconds)

    def order(self, racers: dict[str, Racer], number: int) -> dict[str, Racer]:
        limit = self.preset.patience * racers[BASE].warm_seconds if BASE in racers else float("inf")
        ready = [(name, racer) for name, racer in racers.items() if not number or racer.warm_seconds <= limit]
        start = number % max(1, len(ready))
        return dict(ready[start:] + ready[:start])

    def one_round(self, racers: dict[str, Racer], kind: Callable[[Loss], Run], times: dict[str, Times]) -> None:
        for name, racer in racers.items():
            if "failed" in self.results[name]:
                continue
            self.deadline.check()
            given, run = self.inputs.fresh(), kind(racer.loss)
            took = attempt(self.results[name], lambda run=run, given=given: self.clock.times(lambda: run(given)))
            if took is not None:
                times[name] = took

    def sum_up(self, rounds: list[dict[str, Times]], name: str, ratio: str) -> None:
        for provider in {provider for times in rounds for provider in times}:
            numbers = self.results[provider]
            own = [times[provider] for times in rounds if provider in times]
            pairs = [(times[provider], times[BASE]) for times in rounds if provider in times and BASE in times]
            numbers[name] = spread([times.wall for times in own])
            numbers[ratio] = statistics.median(its.wall / base.wall for its, base in pairs) if pairs else None
            if self.clock.device == "cpu":
                busy = statistics.median(its.processor / base.processor for its, base in pairs) if pairs else None
                numbers[f"processor_{ratio}"] = busy
            if kind_of_rate := rate(self.case, self.inputs, name):
                label, work = kind_of_rate
                numbers[label] = work / numbers[name]["p50"]


def rate(case: Case, inputs: Inputs, name: str) -> tuple[str, float] | None:
    """What to call work per time, and the work that makes it so for ms."""
    if not case.hidden:
        return "gb_per_s", 2 * inputs.x.nbytes / 1e6
    if name != "forward_backward_ms":
        return None
    products = 3 if case.head == "trained" else 2
    return "tflops", products * 2 * inputs.num_valid * case.hidden * case.vocabulary / 1e9


def timed(call: Callable[[], Value]) -> tuple[Value, float]:
    start = time.perf_counter()
    value = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value, time.perf_counter() - start


def with_gradient(loss: Loss) -> Callable[[Inputs], tuple[Tensor, dict[str, Tensor]]]:
    def run(inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        value, trained = loss(inputs), inputs.trained()
        gradients = torch.autograd.grad(value, list(trained.values()))
        return value.detach(), dict(zip(trained, gradients, strict=True))

    return run


def without_gradient(loss: Loss) -> Run:
    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return loss(inputs)

    return run


def attempt(numbers: dict[str, Any], work: Callable[[], Value]) -> Value | None:
    """None if it failed, whatever it was; the reason is in the numbers."""
    try:
        return work()
    except Exception as error:
        numbers["failed"] = without_places(f"{type(error).__name__}: {error}")
    gc.collect()
    if torch.cuda.is_available():
        with suppress(Exception):  # a device that has failed stays failed
            torch.cuda.empty_cache()
    return None


def without_places(text: str) -> str:
    """The first line, without folders of this machine."""
    line = next(iter(text.strip().splitlines()), "")
    return re.sub(r"(?:/[\w.+@-]+)+/", "", line)[:LONGEST_REASON]
