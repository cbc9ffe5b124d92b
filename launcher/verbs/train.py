"""Train a model from a recipe, export it, prove the export, write the report.

Every rank runs this, whether started by accelerate launch, torchrun, srun, --nproc or alone.
"""

import argparse
import os
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")
    parser.add_argument("--nproc", type=int, metavar="N", help="start N ranks on this machine")
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on from the newest good checkpoint of the run folder (auto), or of a run folder, or from one checkpoint",
    )


def run(args: argparse.Namespace) -> int:
    from launcher import recipe

    loaded = recipe.load(
        args.recipe, args.overrides
    )  # before anything is started: a typo must not cost a process group
    if args.nproc is not None and "RANK" not in os.environ:
        from launcher import spawn

        return spawn.run(args.nproc, ["train", args.recipe, *args.overrides, *_resume_words(args)])
    from launcher import log

    log.set_up(int(os.environ.get("RANK", "0")))
    if loaded.sweep is not None:
        log.say("note: the recipe's own values are trained; `launcher sweep` tries those of sweep.space")
        loaded = loaded.of_a_trial()
    _train(loaded, args.resume)
    return 0


def _resume_words(args: argparse.Namespace) -> list[str]:
    return ["--resume", args.resume] if args.resume else []


def _train(recipe: Any, resume: str | None) -> None:
    from launcher import consistency, engine, faults, log, network, output, peers, remedies, report, run, stages, story

    recipe.start_audit()
    output.insist_on_room(recipe, resume)
    in_stages = run.prepare_stages(recipe, engine.world())
    prepared = in_stages[-1]
    log.say(f"plan of {recipe.name}:\n{prepared.plan.as_text()}")
    for stage in in_stages:
        if stage.plan.fits is False:
            log.say(f"WARNING: {remedies.verdict(stage.plan)}; `launcher plan` says what would fit")
    network.choose_interface(prepared.plan.nodes)
    with peers.watched(prepared.plan.timeout_minutes):
        running = engine.Engine(prepared.plan)
    try:
        with peers.watched(prepared.plan.timeout_minutes):
            for stage in in_stages:
                consistency.check(recipe, resume, stage, running)
            place = output.choose(recipe, resume, running)
            log.set_up(running.rank, place.folder)
        recorded = faults.recorded(place.folder, running, place.first_step)
        with recorded as attempt, peers.watched(prepared.plan.timeout_minutes):
            number = stages.at(in_stages, place.first_step)
            ready = run.set_up(in_stages[number], running, place)
            attempt.run = ready
            with faults.StopRequest() as stop:
                story.tell(ready, stop, in_stages)
        if running.is_main:
            log.say(f"report: {report.write(place.folder)}")
    finally:
        running.close()
