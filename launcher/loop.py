"""The training loop. One screen; what it calls is named for what it does."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher import log, plateau, saved_state
from launcher.errors import Interrupted, Preempted
from launcher.evaluate import Verdict, evaluate, insist_on_asked
from launcher.faults import StopRequest
from launcher.run import Run, state_to_save
from launcher.trackers import Trackers


def train(run: Run, trackers: Trackers, stop: StopRequest) -> None:
    """Train from where the run stands to the last step of its stage, an early stop, or a request to stop."""
    if run.progress.stopped_early:
        return
    for step, micro_batches in run.steps():
        votes = {"stop": float(stop.asked), "stop by hand": float(stop.by_hand)}
        counts = backward(run, step, micro_batches, votes)
        learning_rate = run.plan.rate(step) * run.progress.plateau_factor
        run.engine.set_learning_rate(learning_rate)
        grad_norm = run.engine.step()
        run.progress.skipped_steps += not math.isfinite(grad_norm)
        run.progress.step = step + 1
        run.engine.average(run.progress.step - (run.plan.first_step or 0))
        run.progress.seen += (seen := run.seen_in(step))
        run.meter.add_seen(seen)
        if _due(run, run.plan.logging_steps) or run.progress.step == 1:
            trackers.log(run.progress.step, stamp(run) | _reading(run, learning_rate, grad_norm))
        run.verdict = Verdict()
        if run.prepared.eval is not None and _due(run, run.plan.eval_steps):
            with run.meter.paused():
                judge(run, trackers)
        if _due(run, run.plan.save_steps) or counts["stop"] or run.progress.stopped_early:
            with run.meter.paused():
                save(run)
        if counts["stop"]:
            ending = Interrupted if counts["stop by hand"] else Preempted
            raise ending(f"stopped on request after step {run.progress.step}, saved", fix="go on with --resume auto")
        if run.progress.stopped_early:
            log.say(f"stopped early at step {run.progress.step}: no better {run.plan.metric_for_best_model}")
            return


def backward(run: Run, step: int, micro_batches: list[tuple[int, Any]], votes: Mapping[str, float]) -> dict[str, float]:
    """The gradients of a global batch, of which this rank has some micro-batches; sums of counts and votes over all ranks."""
    counts = run.engine.sum(_counts(run, micro_batches) | votes)
    rows, norms = run.rows_in(step), run.batch_norms
    with norms.step():
        for number, batch in micro_batches:
            run.engine.seed(step, number)
            with norms.micro_batch(rows[number]):
                run.meter.add(run.engine.forward_backward(batch, counts, last=number == micro_batches[-1][0]))
    return counts


def judge(run: Run, trackers: Trackers) -> None:
    """Evaluate, log, and keep count of the best; the best state is saved at once, since only now it can be had."""
    run.verdict = examine(run)
    trackers.log(run.progress.step, stamp(run) | run.verdict.metrics)
    if plateau.note(run.progress, run.plan, run.verdict.metrics):
        log.say(f"a plateau at step {run.progress.step}: learning rate x{run.progress.plateau_factor:.3g} from here on")
    metric = run.plan.metric_for_best_model
    if metric is None or run.progress.step == 0:
        return
    value = run.verdict.metrics.get(metric, math.nan)
    if math.isnan(value):  # a correlation with predictions that are all alike, for example
        log.say(f"note: {metric} could not be measured at step {run.progress.step}, so this step is not the best")
        return
    if _is_better(run, value):
        run.progress.best_value, run.progress.best_step = value, run.progress.step
        run.progress.evaluations_without_gain = 0
        save(run)
    else:
        run.progress.evaluations_without_gain += 1
        patience = run.plan.early_stopping_patience
        in_last_stage = run.plan.last_step == run.plan.total_steps
        enough = patience is not None and run.progress.evaluations_without_gain >= patience
        run.progress.stopped_early = enough and in_last_stage


def examine(run: Run) -> Verdict:
    """The metrics that the recipe asks for, and the answers where one of them needs answers."""
    size = run.plan.per_device_eval_batch_size
    with run.engine.averaged():
        measured = evaluate(run.engine, run.task, run.prepared.eval, run.prepared.context, run.collate_eval, size)
        answers = run.exam.sit(run.engine) if run.exam.scored else []
    scored = run.exam.scores(answers)
    metrics = measured.values | scored.values
    _insist_on_measured(run, metrics, measured.details.get("notes", ()))
    wanted = [f"eval/{name}" for name in run.plan.metrics]
    found = {name: metrics[name] for name in wanted if name in metrics}
    return Verdict(found, answers, measured.details | scored.details)


def _insist_on_measured(run: Run, metrics: Mapping[str, float], notes: Sequence[str]) -> None:
    """Before the first step; with notes, the evaluation says itself what it could not tell."""
    if run.progress.step == 0 and run.engine.broadcast(not notes):
        insist_on_asked(run.recipe, [name.removeprefix("eval/") for name in metrics])


def stamp(run: Run) -> dict[str, float]:
    """What every line of metrics.jsonl carries besides its step."""
    epoch = run.prepared.order.epoch_after(run.progress.step)
    return {"epoch": epoch, run.task.TRAITS.unit: run.progress.seen, "time": time.time()}


def save(run: Run) -> None:
    def save_model(folder: Path) -> None:
        with run.engine.averaged():
            saved_state.save_model(run.model, folder / "model", run.engine)

    writers = (
        save_model,
        lambda folder: saved_state.save_optimizer(folder / "optimizer", run.engine),
    )
    run.checkpoints.save(run.progress.step, state_to_save(run), writers, run.progress.best_step)


def _reading(run: Run, learning_rate: float, grad_norm: float) -> dict[str, float]:
    """A step that fp16 skipped has no gradient norm."""
    scale = run.engine.loss_scale
    return (
        run.meter.read()
        | {"train/learning_rate": learning_rate, "train/peak_memory_gib": run.engine.peak_memory_gib()}
        | ({"train/grad_norm": grad_norm} if math.isfinite(grad_norm) else {})
        | ({"train/loss_scale": scale.value, "train/skipped_steps": run.progress.skipped_steps} if scale else {})
    )


def _counts(run: Run, micro_batches: list[tuple[int, Any]]) -> dict[str, float]:
    counts: dict[str, float] = defaultdict(float)
    for _, batch in micro_batches:
        for name, count in run.objective.counts(batch).items():
            counts[name] += count
    return counts


def _due(run: Run, every: int | None) -> bool:
    """Every so many steps, and at the last one of a stage."""
    step = run.progress.step
    return step == run.plan.last_step or (every is not None and step % every == 0)


def _is_better(run: Run, value: float) -> bool:
    best = run.progress.best_value
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value > best if run.plan.greater_is_better else value < best
