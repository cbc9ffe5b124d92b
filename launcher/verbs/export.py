"""Export a run's model as a plain Hugging Face folder (RUN/export), proven in a fresh process."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--merge", action="store_true", help="fold the adapter into the base weights")
    parser.add_argument(
        "--dtype", choices=["fp32", "bf16", "fp16"], help="type of the exported weights (default: the recipe's)"
    )
    parser.add_argument("--step", type=int, help="checkpoint to take (default: the best, else the newest)")
    parser.add_argument("--no-verify", action="store_true", help="publish without the proof")


def run(args: argparse.Namespace) -> int:
    from launcher import log

    log.set_up(0)
    from launcher import export, story
    from launcher.restore import restore
    from launcher.run_folder import RunFolder

    ready = restore(Path(args.run), args.step)
    known = [line for line in RunFolder(args.run).metrics() if line.get("step") == ready.step and "eval/loss" in line]
    ready.verdict.metrics = {name: value for name, value in (known or [{}])[-1].items() if name.startswith("eval/")}
    section = ready.recipe.export
    verify = section.verify and not args.no_verify
    story.publish(ready, ready.model, export.Wanted(args.merge or section.merge, args.dtype or section.dtype, verify))
    return 0
