"""List known base models: size, context, licence, memory by method, what fits a GPU, the recipe to begin with.

`--rows N`, or `--recipe R` for the data of a recipe, adds what so few rows ask for. Needs neither network nor GPU.
"""

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", help="only models that can do this task")
    parser.add_argument("--gpu", "--card", metavar="NAME|24GB", help="say what fits this GPU")
    parser.add_argument("--method", help="memory of this method only (default: full, lora, qlora)")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--rows", type=_number, metavar="N", help="what so many rows of training data ask for")
    rows.add_argument("--recipe", metavar="R", help="count the rows of this recipe's data.train, for its task")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    from launcher.known_models import choice, small_data, table

    task, rows = args.task, args.rows
    if args.recipe is not None:
        task, rows = small_data.of_recipe(args.recipe, task)
    what = choice.asked(task, args.gpu, args.method)
    found = choice.chosen(what)
    advice = {} if rows is None else small_data.advice(rows, list(found), task)
    if args.json:
        more = {} if rows is None else {"rows": rows, "advice": small_data.as_json(advice)}
        print(json.dumps({"models": table.records(found, what), **more}, indent=1))
        return 0
    print(table.text(found, what) if found else "no known model does that")
    if found:
        print(f"\n{_notes(what)}")
    if rows is not None:
        print(f"\n{small_data.text(rows, advice)}")
    return 0


def _notes(what: Any) -> str:
    lines = [
        "Memory is the estimate of `launcher plan` for one GPU, AdamW and 16-bit products; with your own batch:",
        "  launcher plan RECIPE model.name_or_path=MODEL method=METHOD --world 1x1 --card NAME",
    ]
    if what.gpu is not None:
        gib = what.gpu.memory_bytes / 2**30
        methods = ", ".join(what.methods)
        lines.append(f"fits: the first of {methods} for which the {gib:.1f} GiB of {what.gpu.name} are enough;")
        lines.append('  "?" where activations come on top, which are not known.')
    return "\n".join(lines)


def _number(text: str) -> int:
    if not text.replace("_", "").isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
