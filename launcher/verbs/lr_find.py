"""Find a learning rate for a recipe by a range test: train in memory while it grows, and see where the loss falls.

The model, data, batch and optimizer are the recipe's own, its first stage where it has several. Works alone, with --nproc and
under torchrun. Writes lr-find.json and lr-find.svg; nothing of a run is made.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps of the test (default: 100)")
    parser.add_argument("--from", dest="low", type=float, default=1e-7, metavar="RATE", help="first (default: 1e-7)")
    parser.add_argument("--to", dest="high", type=float, default=1.0, metavar="RATE", help="last (default: 1)")
    parser.add_argument("--into", metavar="FOLDER", help="new folder (default: runs/<name>-lr-find-<time>)")
    parser.add_argument("--nproc", type=int, metavar="N", help="start N ranks on this machine")


def run(args: argparse.Namespace) -> int:
    from launcher import recipe

    loaded = recipe.load(args.recipe, args.overrides)
    _refuse(args)
    if args.nproc is not None and "RANK" not in os.environ:
        from launcher import spawn

        return spawn.run(args.nproc, ["lr-find", args.recipe, *args.overrides, *_words(args)])
    from launcher import log

    log.set_up(int(os.environ.get("RANK", "0")))
    _find(loaded, args)
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    into = ["--into", args.into] if args.into else []
    return [f"--steps={args.steps}", f"--from={args.low!r}", f"--to={args.high!r}", *into]


def _refuse(args: argparse.Namespace) -> None:
    from launcher.errors import RecipeError

    if args.steps < 10:
        raise RecipeError(f"--steps {args.steps} is less than 10", fix="a hundred is usual")
    if not 0 < args.low < args.high < float("inf"):
        raise RecipeError(
            f"--from {args.low:g} --to {args.high:g} is no range of learning rates", fix="give 0 < --from < --to"
        )
    folder = Path(args.into or "")
    if args.into and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError("--into is not an empty folder", where=args.into, fix="name a new one")


def _find(recipe: Any, args: argparse.Namespace) -> None:
    from launcher import consistency, engine, log, lr_find, network, peers, run

    stages = run.prepare_stages(recipe, engine.world())
    prepared = stages[0]
    if len(stages) > 1:
        log.say(f"stage {prepared.plan.stage}, the first of {len(stages)}")
    network.choose_interface(prepared.plan.nodes)
    minutes = prepared.plan.timeout_minutes
    with peers.watched(minutes):
        running = engine.Engine(prepared.plan)
    try:
        with peers.watched(minutes):
            consistency.check(recipe, None, prepared, running)
            found = lr_find.find(prepared, running, lr_find.Range(args.low, args.high, args.steps))
        if running.is_main:
            folder = Path(args.into or f"runs/{recipe.name}-lr-find-{time.strftime('%Y%m%d-%H%M%S')}")
            _write(found, folder)
            print(f"{found.ended}\n{found.verdict}\nwritten: {folder}", flush=True)
    finally:
        running.close()


def _write(found: Any, folder: Path) -> None:
    from launcher.errors import StorageError
    from launcher.report import rate_picture

    marks = [("steepest", found.steepest), ("a tenth of the minimum", found.tenth)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lr-find.json").write_text(json.dumps(found.as_json(), indent=1) + "\n")
        if found.losses:
            raw, line = (list(zip(found.rates, values, strict=True)) for values in (found.losses, found.smoothed))
            picture = rate_picture.svg(raw, line, [(name, rate) for name, rate in marks if rate is not None])
            (folder / "lr-find.svg").write_text(picture, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the result cannot be written: {error.strerror}", where=str(folder), fix="name another folder with --into"
        ) from error
