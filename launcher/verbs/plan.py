"""Print every derived number of a run and where it comes from, for this machine or any other.

Needs no GPU: `--world 2x8 --card h100` plans for two nodes of eight. Ends with 91 where the memory of the card is too small.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

BLOCKS = "▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")
    parser.add_argument("--world", metavar="NxM", help="N nodes of M GPUs (default: this machine, one process)")
    parser.add_argument(
        "--card", metavar="NAME|24GB", help="the GPU of each process, by name or memory (default: what is here)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: name -> {value, origin}")


def run(args: argparse.Namespace) -> int:
    from launcher import recipe

    loaded = recipe.load(args.recipe, args.overrides)
    world = _world(args.world, args.card)
    import json

    from launcher import log
    from launcher.errors import OutOfMemoryProblem
    from launcher.recipe.searching import said

    log.set_up(0 if not args.json else 1)
    plans, plan_of = _plans(loaded, world, args)
    made = max(plans, key=lambda plan: (plan.total_bytes_per_rank or 0, plan.first_step or 0))  # what must fit
    print(json.dumps(made.as_json(), indent=1) if args.json else made.as_text())
    if not args.json:
        _sketch(plans)
        for line in said(loaded):
            print(line)
        _judge(made, plan_of)
    return OutOfMemoryProblem.exit_code if made.fits is False else 0


def _world(text: str | None, card_name: str | None) -> Any:
    """None: this machine, and this process alone."""
    from launcher.errors import RecipeError
    from launcher.memory.cards import card
    from launcher.world import World

    named = None if card_name is None else card(card_name)
    if text is None and named is None:
        return None
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text or "1x1")):
        raise RecipeError(f"--world {text} is not NODESxGPUS", fix="write for example --world 2x8")
    nodes, processes = int(match[1]), int(match[2])
    if named is None:
        from launcher import engine

        return World(nodes, processes, device="cuda", bf16=True, memory_bytes=engine.world().memory_bytes)
    return World(nodes, processes, device="cuda", bf16=named.bf16, memory_bytes=named.memory_bytes)


def _plans(loaded: Any, world: Any, args: argparse.Namespace) -> tuple[list[Any], Callable[[Sequence[str], int], Any]]:
    """The plan of each stage, and how the run would be with other words on the command line and other nodes.

    As exact as what can be reached allows: without the tokenizer no rows are known, without a configuration no memory.
    """
    from launcher import engine, model, parts, plan, processor, recipe, stages
    from launcher.errors import EnvironmentProblem
    from launcher.rows import Reader

    task = parts.load_whole("tasks", loaded.task)
    train, note, facts, used, context, head = None, "", None, None, None, {}
    try:
        used = processor.load(loaded, task.TRAITS)
        reader = Reader(loaded, task, used)
        train = reader.rows("train")
        if train is not None:
            context = reader.context(train)
            head = context.head
        note = "data.train has no source"
    except EnvironmentProblem as problem:
        note = str(problem)
    try:
        facts = model.facts(loaded, task, parts.load("adapters", loaded.method), used, head)
    except EnvironmentProblem as problem:
        note = note or str(problem)
    where = world or engine.world()

    def plan_of(words: Sequence[str], nodes: int) -> Any:
        changed = {word.partition("=")[0] for word in words}
        kept = [word for word in args.overrides if word.partition("=")[0] not in changed]
        other = recipe.load(args.recipe, [*kept, *words])
        adapter = parts.load("adapters", other.method)
        known = facts if other.method == loaded.method else model.facts(other, task, adapter, used, head)
        return plan.make(other, replace(where, nodes=nodes), known, None, note)

    def facts_of(stage: Any) -> Any:
        if facts is None or stage is loaded:
            return facts
        return model.facts(stage, task, parts.load("adapters", stage.method), used, head)

    def rows_of(stage: Any) -> Any:
        if train is None or stage.data.train == loaded.data.train:
            return train
        return Reader(stage, task, used).rows("train", context and context.labels)

    made = stages.planned(loaded, where, facts_of, rows_of, context, note)
    return [stage.plan for stage in made], plan_of


def _sketch(plans: list[Any]) -> None:
    """The learning rate over the steps of each stage, where they are known."""
    for plan in plans:
        if plan.last_step is not None and plan.first_step is not None and plan.last_step > plan.first_step:
            steps = range(plan.first_step, plan.last_step)
            line = sketched([*map(plan.rate, steps)])
            lower = ", lower wherever evaluations stop getting better" if plan.schedule == "reduce_on_plateau" else ""
            print(f"learning rate, steps {steps[0] + 1:,}-{steps[-1] + 1:,}: {line}{lower}")


def sketched(values: Sequence[float], width: int = 60) -> str:
    """Values from zero to the highest as a line of at most `width` blocks, each the mean of its stretch; and the ends in digits."""
    number, top = min(width, len(values)), max(values)
    edges = [round(i * len(values) / number) for i in range(number + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    line = "".join(BLOCKS[min(len(BLOCKS) - 1, int(mean / (top or 1) * len(BLOCKS)))] for mean in means)
    return f"{line}  {values[0]:.2e}, at most {top:.2e}, {values[-1]:.2e} at the end"


def _judge(made: Any, plan_of: Callable[[Sequence[str], int], Any]) -> None:
    """Whether it fits the card, and what would make it fit."""
    from launcher import remedies

    said = remedies.verdict(made)
    if said is None:
        return
    print(said)
    if made.fits:
        return
    found, least = remedies.find(made, plan_of)
    for remedy in found:
        print(f"  {remedy}")
    if not found:
        print("  none of the changes that were tried makes it fit" + (f"; the least {least}" if least else ""))
