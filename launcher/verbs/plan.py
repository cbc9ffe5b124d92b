"""Print every derived number of a run and where it comes from, for this machine or any other.

Needs no GPU: `--world 2x8` plans for two nodes of eight GPUs.
"""

import argparse
import re
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")
    parser.add_argument("--world", metavar="NxM", help="N nodes of M GPUs (default: this machine, one process)")
    parser.add_argument("--json", action="store_true", help="print JSON: name -> {value, origin}")


def run(args: argparse.Namespace) -> int:
    from launcher import recipe

    loaded = recipe.load(args.recipe, args.overrides)
    world = _world(args.world)
    import json

    from launcher import log

    log.set_up(0 if not args.json else 1)
    made = _plan(loaded, world)
    print(json.dumps(made.as_json(), indent=1) if args.json else made.as_text())
    return 0


def _world(text: str | None) -> Any:
    from launcher.errors import RecipeError

    if text is None:
        return None
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise RecipeError(f"--world {text} is not NODESxGPUS", fix="write for example --world 2x8")
    from launcher.world import World

    return World(int(match[1]), int(match[2]), device="cuda", bf16=True)


def _plan(loaded: Any, world: Any) -> Any:
    """As exact as what can be reached allows: without the tokenizer the rows are unknown, without a configuration the memory is."""
    from launcher import engine, model, parts, plan
    from launcher.errors import EnvironmentProblem
    from launcher.run import order_of, prepare_rows

    task = parts.load_whole("tasks", loaded.task)
    order_for, note, facts, tokenizer = None, "", None, None
    try:
        tokenizer = model.load_tokenizer(loaded)
        train = prepare_rows(loaded, task, tokenizer, "train")
        if train is not None:
            order_for = lambda size: order_of(loaded, train, size)  # noqa: E731
        note = "data.train has no source"
    except EnvironmentProblem as problem:
        note = str(problem)
    try:
        facts = model.facts(loaded, task, parts.load("adapters", loaded.method), tokenizer)
    except EnvironmentProblem as problem:
        note = note or str(problem)
    return plan.make(loaded, world or engine.world(), facts, order_for, note)
