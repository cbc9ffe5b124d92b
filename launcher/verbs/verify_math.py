"""Prove on a recipe's own model and data that loss and gradients do not depend on how a step is computed.

The first rows are one global batch. One process computes it plainly; then it is cut into micro-batches, packed, put through the
fused loss, computed with activation checkpointing, and shared out by ddp, zero1, zero2 and zero3. Ends with 93 if one differs.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")
    parser.add_argument("--nproc", type=int, default=2, metavar="N", help="processes that share the work (default: 2)")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="rows of the batch (default: 8)")
    parser.add_argument("--as-configured", action="store_true", help="in the recipe's precision, not in fp32")
    parser.add_argument("--all", action="store_true", help="also two changes at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # given to the processes that it starts


def run(args: argparse.Namespace) -> int:
    from launcher import recipe
    from launcher.suggest import STAGES
    from launcher.verify_math import Job, prove, table

    loaded = recipe.load(args.recipe, args.overrides)
    job = Job(args.recipe, tuple(args.overrides), args.nproc, args.rows, args.as_configured, args.all)
    if args.into is not None:
        from launcher.verify_math import ranks

        return ranks.work(job, args.into)
    _refuse(args)
    if given := [key for key in STAGES if getattr(loaded, key)]:
        print(f"note: without {given[0]}, as one training of everything that is not frozen")
    code, findings = prove(job, loaded)
    if findings is None:
        return code
    print(table.text(findings))
    if args.json is not None:
        args.json.write_text(json.dumps(table.as_json(findings), indent=1) + "\n")
    _raise_what_is_wrong(findings, args.recipe)
    return 0


def _refuse(args: argparse.Namespace) -> None:
    from launcher import spawn
    from launcher.errors import EnvironmentProblem, RecipeError

    if "RANK" in os.environ:
        raise EnvironmentProblem("verify-math starts its processes itself", fix="run it without torchrun or srun")
    spawn.refuse_none(args.nproc)
    if args.rows < 2:
        raise RecipeError(f"--rows {args.rows} is less than 2", fix="one row cannot be cut into micro-batches")


def _raise_what_is_wrong(findings: Any, where: str) -> None:
    from launcher.errors import LauncherError, UnequalMath

    if wrong := findings.named("WRONG"):
        raise UnequalMath(
            f"these do not compute the same step: {', '.join(wrong)}", where=where, fix="do not train with them"
        )
    if failed := findings.named("failed"):
        raise LauncherError(f"these could not be computed: {', '.join(failed)}", where=where, fix="see above")
