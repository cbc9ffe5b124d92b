"""Evaluate a run's model on the evaluation data of its recipe, or on other data: `data.eval=[{path: test.csv}]`."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="change data.eval.* or evaluation.* of its recipe",
    )
    parser.add_argument("--step", type=int, help="checkpoint to take (default: the best, else the newest)")
    parser.add_argument("--json", action="store_true", help="print JSON, with all details")


def run(args: argparse.Namespace) -> int:
    from launcher import log

    log.set_up(1 if args.json else 0)
    from launcher import evaluation_pictures, loop
    from launcher.errors import RecipeError
    from launcher.restore import restore

    for override in args.overrides:
        if not override.startswith(("data.eval", "evaluation.")):
            raise RecipeError(
                f"{override}: an evaluation changes nothing but data.eval and evaluation", fix="leave it out"
            )
    ready = restore(Path(args.run), args.step, args.overrides)
    if ready.prepared.eval is None:
        raise RecipeError("the recipe of this run has no data.eval", where=str(Path(args.run) / "recipe.yaml"))
    verdict = loop.examine(ready)
    metrics = {"step": ready.progress.step, **verdict.metrics}
    if args.json:
        details = evaluation_pictures.without(verdict.details)
        print(json.dumps(metrics | ({"details": details} if details else {})))
    else:
        print("\n".join(f"{name:<20} {value:.6g}" for name, value in metrics.items()))
        print("".join(_table(verdict.details.get("table"))), end="")
    return 0


def _table(table: dict[str, Any] | None) -> Iterator[str]:
    """Lines with what was found for each class."""
    if table is None:
        return
    rows = [table["columns"], *table["rows"]]
    cells = [
        [f"{cell:.4f}" if isinstance(cell, float) else str("-" if cell is None else cell) for cell in row]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        yield "\n" * (row is cells[0]) + first[0].ljust(first[1])
        yield "".join(f"  {cell.rjust(width)}" for cell, width in others) + "\n"
