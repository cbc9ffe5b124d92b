"""What happens around the loop: the look before, the training, the look after, the export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher import (
    environment,
    evaluation_pictures,
    export,
    log,
    loop,
    model_card,
    parts,
    predict,
    saved_state,
    unshard,
)
from launcher.data.clean import report as cleaned
from launcher.errors import RecipeErrors
from launcher.evaluate import Verdict
from launcher.faults import StopRequest
from launcher.plan import Plan
from launcher.run import Prepared, Run, enter
from launcher.trackers import Trackers

RATES_DRAWN = 300  # of a stage


def tell(run: Run, stop: StopRequest, stages: Sequence[Prepared] = ()) -> None:
    """The whole run from its first look to its export; the last of `stages` follow the one for which it is ready."""
    stages = stages or [run.prepared]
    later = [stage for stage in stages if (stage.plan.first_step or 0) > (run.plan.first_step or 0)]
    if run.engine.is_main:
        _write_papers(run, stages[-1].plan)
        _write_json(run.folder / "schedule.json", schedule([stage.plan for stage in stages]))
    trackers = Trackers(run.recipe.logging.trackers if run.engine.is_main else (), run.folder, run.plan)
    section = run.recipe.export
    wanted = export.Wanted(section.merge, section.dtype, section.verify)
    _audit(run)
    try:
        if run.progress.step == 0:
            look_before(run, trackers)
        loop.train(run, trackers, stop)
        for stage in later:
            log.say(f"stage {stage.plan.stage}, from step {stage.plan.first_step}")
            enter(run, stage)
            loop.train(run, trackers, stop)
        run.engine.settle()
        look_after(run, trackers)
    finally:
        trackers.close()
    model = unshard.on_rank_zero(run)
    run.engine.barrier()
    if run.engine.is_main:
        publish(run, model, wanted)


def schedule(plans: Sequence[Plan]) -> dict[str, Any]:
    """What the report draws: the first step of each stage with its name, and [step, learning rate] as planned, from 1 on."""
    points = []
    for plan in plans:
        assert plan.first_step is not None and plan.last_step is not None
        stride = max(1, (plan.last_step - plan.first_step) // RATES_DRAWN)
        steps = [*range(plan.first_step, plan.last_step, stride), plan.last_step - 1]
        points += [[step + 1, plan.rate(step)] for step in dict.fromkeys(steps)]
    return {"stages": [[plan.first_step, plan.stage] for plan in plans if plan.stage], "learning_rate": points}


def look_before(run: Run, trackers: Trackers) -> None:
    """Evaluate and answer with the model as it came, so that there is something to compare with."""
    if run.prepared.eval is not None:
        loop.judge(run, trackers)
    said = run.verdict.answers or run.exam.sit(run.engine)
    if run.engine.is_main and said:
        asked = [(run.exam.questions[i], said[i]) for i in run.exam.samples()]
        rows = [{"prompt": q.shown, "reference": q.reference, "base": base, "tuned": None} for q, base in asked]
        _write_json(run.folder / "samples.json", rows)


def look_after(run: Run, trackers: Trackers) -> None:
    """Take the best state, and see what it answers. Its verdict is that of what is exported."""
    _take_best(run)
    if run.prepared.eval is not None and not run.verdict.metrics:
        run.verdict = loop.examine(run)
        if run.taken is None:  # else they were logged at that step
            trackers.log(run.step, loop.stamp(run) | run.verdict.metrics)
    if run.engine.is_main and run.verdict.details:
        details = evaluation_pictures.filed(run.verdict.details, run.folder)
        facts = {"step": run.step, "task": run.recipe.task, **details}
        _write_json(run.folder / "evaluation.json", facts)
    said = run.verdict.answers or run.exam.sit(run.engine)
    path = run.folder / "samples.json"
    if run.engine.is_main and path.exists():
        rows = json.loads(path.read_text())
        for row, i in zip(rows, run.exam.samples(), strict=False):
            row["tuned"] = said[i]
        _write_json(path, rows)


def publish(run: Run, model: Any, wanted: export.Wanted) -> None:
    """Export `model`, which `run.verdict` is about; rank zero alone."""
    adapter, used = parts.load("adapters", run.recipe.method), run.prepared.processor
    facts = predict.facts(run.recipe, run.prepared.train)
    trained = export.Trained(model, used, run.task, adapter, run.held_out(), facts)
    card = model_card.write(run.recipe, run.plan, model, run.step, run.verdict.metrics, wanted.merge)
    folder, verdict = export.export(trained, run.folder, card, wanted)
    difference = "" if verdict is None else f"{verdict['largest_logit_difference']:.1e}"
    proven = f"proven in a fresh process, largest logit difference {difference}" if verdict else "not verified"
    log.say(f"export: {folder} ({proven})")


def _take_best(run: Run) -> None:
    best = run.progress.best_step
    if best is None or best == run.progress.step:
        return
    chosen = run.checkpoints.of_step(best)
    saved_state.load_model(run.model, chosen.folder / "model", run.engine)
    log.say(f"taking step {best}, the best by {run.plan.metric_for_best_model} ({run.progress.best_value:.6g})")
    run.taken, run.verdict = best, Verdict()


def _write_papers(run: Run, plan: Plan) -> None:
    """`plan`: of the last stage, as `launcher plan` shows it; its `stages` tell of all."""
    (run.folder / "recipe.yaml").write_text(run.prepared.given.to_yaml(), encoding="utf-8")
    _write_json(run.folder / "plan.json", plan.as_json())
    _write_json(run.folder / "environment.json", environment.describe(run.recipe, run.plan, run.prepared))
    if run.recipe.data.clean:
        _write_cleaned(run)


def _write_cleaned(run: Run) -> None:
    """A line for every row that data.clean dropped: of which data, by which step, where it stands, and why."""
    lines = [
        json.dumps({"data": which, **row}, ensure_ascii=False) + "\n"
        for which, joined in (("train", run.prepared.train), ("eval", run.prepared.eval))
        for rows in (joined.sources if joined else ())
        for row in cleaned.read(rows.folder)
    ]
    (run.folder / cleaned.FILE).write_text("".join(lines), encoding="utf-8")


def _audit(run: Run) -> None:
    """Everything is set up: a key that nobody has read by now does nothing, and a run must not pretend that it does."""
    by_rank = run.engine.gather(run.prepared.given.unread())  # some keys are read on rank zero alone
    if unread := [line for line in by_rank[0] if all(line in lines for lines in by_rank)]:
        raise RecipeErrors(unread)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
