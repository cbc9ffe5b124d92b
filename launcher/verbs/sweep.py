"""Search for good values of a recipe's keys: `sweep.space` says which are tried. One trial is one run; bad ones end early.

Writes best.yaml (a recipe ready to run), sweep.json and report.html into the sweep's folder. A sweep that was stopped or killed
goes on with --resume auto; several machines work on one where sweep.storage is a PostgreSQL database that all reach.
"""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML) with a section `sweep`")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")
    parser.add_argument("--workers", type=int, metavar="N", help="trials at a time (default: sweep.workers)")
    parser.add_argument("--nproc", type=int, metavar="N", help="processes of each trial (default: sweep.nproc)")
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on with the sweep of its folder (auto), or of a folder; begins one where there is none (auto)",
    )


def run(args: argparse.Namespace) -> int:
    from launcher import recipe

    words = [f"sweep.{name}={n}" for name in ("workers", "nproc") if (n := getattr(args, name)) is not None]
    loaded = recipe.load(args.recipe, [*args.overrides, *words])
    _refuse(args.recipe, loaded)
    from launcher import log

    log.set_up(0)
    from launcher.sweep.store import storage_errors

    with storage_errors():
        _search(loaded, args.resume)
    return 0


def _refuse(path: str, loaded: Any) -> None:
    from importlib.util import find_spec

    from launcher.errors import EnvironmentProblem, RecipeError

    if loaded.sweep is None:
        fix = "add for example sweep: {space: {optimizer.learning_rate: {values: [1.0e-4, 3.0e-4]}}}"
        raise RecipeError("the recipe has no section sweep", where=path, fix=fix)
    if find_spec("optuna") is None:
        raise EnvironmentProblem(
            "a sweep needs Optuna", fix="pip install -c constraints.txt 'finetune-launcher[sweep]'"
        )


def _search(loaded: Any, resume: str | None) -> None:
    from launcher import log
    from launcher.errors import Interrupted, NoProgress, Preempted
    from launcher.faults import StopRequest
    from launcher.recipe.searching import num_trials, said
    from launcher.sweep import begin, result
    from launcher.sweep.crew import Crew

    place, store = begin.opened(loaded, resume)
    total = num_trials(loaded.sweep)
    for line in said(loaded):
        log.say(line)
    if (there := len(store.trials())) > total:
        log.say(f"WARNING: sweep.trials is {total}, and {there} are there already; no new one is begun")

    def note() -> None:
        with store.locked():
            result.write(place, store, loaded.sweep, total)

    with StopRequest() as stop:
        Crew(place, store, loaded.sweep, total, note).work(stop)
    with store.locked():
        found = result.write(place, store, loaded.sweep, total)
    result.say(place, found)
    if stop.asked:
        kind = Interrupted if stop.by_hand else Preempted
        raise kind("the sweep was asked to stop", where=str(place.folder), fix="go on with --resume auto")
    if found["best"] is None and all(one["state"] != "open" for one in found["trials"]):
        raise NoProgress("no trial came to its end", where=str(place.folder), fix="sweep.json has what each one said")
