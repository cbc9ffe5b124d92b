"""Evaluate a run's model on the evaluation data of its recipe."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--step", type=int, help="checkpoint to take (default: the best, else the newest)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from launcher import log

    log.set_up(1 if args.json else 0)
    from launcher import loop
    from launcher.errors import RecipeError
    from launcher.restore import restore

    ready = restore(Path(args.run), args.step)
    if ready.prepared.eval is None:
        raise RecipeError("the recipe of this run has no data.eval", where=str(Path(args.run) / "recipe.yaml"))
    metrics = {"step": ready.progress.step, **loop.examine(ready).metrics}
    print(json.dumps(metrics) if args.json else "\n".join(f"{name:<20} {value:.6g}" for name, value in metrics.items()))
    return 0
