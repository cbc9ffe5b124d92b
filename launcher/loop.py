"""The training loop. One screen; what it calls is named for what it does."""

import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from launcher import checkpoint, log, schedules
from launcher.errors import Preempted
from launcher.evaluate import Verdict, evaluate
from launcher.faults import StopRequest
from launcher.run import Run, state_to_save
from launcher.trackers import Trackers


def train(run: Run, trackers: Trackers, stop: StopRequest) -> None:
    """Train from where the run stands to its last step, an early stop, or a request to stop."""
    if run.progress.stopped_early:
        return
    meter = Meter(run)
    for step, micro_batches in run.steps():
        counts = run.engine.sum(_counts(run, micro_batches) | {"stop": float(stop.asked)})
        for number, batch in micro_batches:
            run.engine.seed(step, number)
            meter.add(run.engine.forward_backward(batch, counts, last=number == micro_batches[-1][0]))
        learning_rate = _learning_rate(run, step)
        run.engine.set_learning_rate(learning_rate)
        grad_norm = run.engine.step()
        run.progress.step = step + 1
        run.progress.tokens += run.tokens_in(step)
        if _due(run, run.plan.logging_steps) or run.progress.step == 1:
            trackers.log(run.progress.step, meter.read(learning_rate, grad_norm))
        run.verdict = Verdict()
        if run.prepared.eval is not None and _due(run, run.plan.eval_steps):
            with meter.paused():
                judge(run, trackers)
        if _due(run, run.plan.save_steps) or counts["stop"] or run.progress.stopped_early:
            with meter.paused():
                save(run)
        if counts["stop"]:
            raise Preempted(f"stopped on request after step {run.progress.step}, saved", fix="go on with --resume auto")
        if run.progress.stopped_early:
            log.say(
                f"stopped early at step {run.progress.step}: no better {run.recipe.evaluation.metric_for_best_model}"
            )
            return


def judge(run: Run, trackers: Trackers) -> None:
    """Evaluate, log, and keep count of the best; the best state is saved at once, since only now it can be had."""
    run.verdict = examine(run)
    trackers.log(run.progress.step, stamp(run) | run.verdict.metrics)
    metric = run.recipe.evaluation.metric_for_best_model
    if metric is None or run.progress.step == 0:
        return
    if _is_better(run, value := run.verdict.metrics[metric]):
        run.progress.best_value, run.progress.best_step = value, run.progress.step
        run.progress.evaluations_without_gain = 0
        save(run)
    else:
        run.progress.evaluations_without_gain += 1
        patience = run.recipe.evaluation.early_stopping_patience
        run.progress.stopped_early = patience is not None and run.progress.evaluations_without_gain >= patience


def examine(run: Run) -> Verdict:
    """The metrics that the recipe asks for, and the answers where one of them needs answers."""
    size = run.plan.per_device_eval_batch_size
    metrics = evaluate(run.engine, run.task, run.prepared.eval, run.collate_eval, size)
    answers = run.exam.sit(run.engine) if run.exam.scored else []
    metrics |= run.exam.scores(answers) if run.exam.scored else {}
    wanted = run.recipe.evaluation.metrics
    return Verdict({name: value for name, value in metrics.items() if name.removeprefix("eval/") in wanted}, answers)


def stamp(run: Run) -> dict[str, float]:
    """What every line of metrics.jsonl carries besides its step."""
    epoch = run.prepared.order.epoch_after(run.progress.step)
    return {"epoch": epoch, "tokens": run.progress.tokens, "time": time.time()}


def save(run: Run) -> None:
    def write(folder: Path) -> None:
        checkpoint.save_model(run.model, folder / "model")
        checkpoint.write_optimizer(folder / "optimizer", run.engine)

    run.checkpoints.save(run.progress.step, state_to_save(run), write, run.progress.best_step)


class Meter:
    """Sums of the losses since they were last read, kept on the device, and the speed without what is not training."""

    def __init__(self, run: Run):
        self._run, self._sums, self._idle = run, defaultdict(float), 0.0
        self._since, self._tokens = time.perf_counter(), run.progress.tokens

    def add(self, loss: Any) -> None:
        for name, (value, count, weight) in loss.terms.items():
            self._sums[f"{name} sum"] += weight * value.detach().double()
            self._sums[f"{name} count"] += count

    def read(self, learning_rate: float, grad_norm: float) -> dict[str, float]:
        run = self._run
        totals = run.engine.sum({name: float(value) for name, value in self._sums.items()})
        terms = {name.rsplit(" ", 1)[0] for name in totals}
        loss = sum(totals[f"{term} sum"] / max(totals[f"{term} count"], 1) for term in terms)
        seconds = time.perf_counter() - self._since - self._idle
        speed = (run.progress.tokens - self._tokens) / seconds
        self._sums.clear()
        self._since, self._tokens, self._idle = time.perf_counter(), run.progress.tokens, 0.0
        return stamp(run) | {
            "train/loss": loss,
            "train/learning_rate": learning_rate,
            "train/grad_norm": grad_norm,
            "train/tokens_per_second": speed,
            "train/peak_memory_gib": run.engine.peak_memory_gib(),
        }

    def paused(self) -> "_Pause":
        return _Pause(self)


class _Pause:
    """Time spent inside does not count against the speed of training."""

    def __init__(self, meter: Meter):
        self._meter = meter

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._meter._idle += time.perf_counter() - self._start


def _counts(run: Run, micro_batches: list[tuple[int, Any]]) -> dict[str, float]:
    counts: dict[str, float] = defaultdict(float)
    for _, batch in micro_batches:
        for name, count in run.objective.counts(batch).items():
            counts[name] += count
    return counts


def _learning_rate(run: Run, step: int) -> float:
    p = run.plan
    return p.learning_rate * schedules.factor(
        p.schedule, step, p.total_steps, p.warmup_steps, p.min_lr_ratio, p.decay_steps or 0
    )


def _due(run: Run, every: int | None) -> bool:
    """Every so many steps, and at the last one."""
    step = run.progress.step
    return step == run.plan.total_steps or (every is not None and step % every == 0)


def _is_better(run: Run, value: float) -> bool:
    best = run.progress.best_value
    if math.isnan(value):
        return False
    if best is None:
        return True
    section = run.recipe.evaluation
    greater = section.greater_is_better
    if greater is None:
        greater = section.metric_for_best_model.removeprefix("eval/") not in ("loss", "perplexity")
    return value > best if greater else value < best
