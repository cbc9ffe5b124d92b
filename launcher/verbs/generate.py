"""Answer prompts with a run's model, by its likeliest words."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what to answer; may be repeated (default: one a line from standard input)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="longest answer in tokens (default: 128)"
    )
    parser.add_argument(
        "--num-beams", type=int, default=1, metavar="N", help="beams of the search (default: 1, greedy)"
    )
    parser.add_argument("--step", type=int, help="checkpoint to take (default: the best, else the newest)")
    parser.add_argument("--base", action="store_true", help="answer with the base model too, for comparison")


def run(args: argparse.Namespace) -> int:
    prompts = args.prompt or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    from launcher import log
    from launcher.data import sources
    from launcher.errors import RecipeError
    from launcher.generation import Generation
    from launcher.restore import restore

    log.set_up(1)
    ready = restore(Path(args.run), args.step)
    if not hasattr(ready.task, "answers"):
        raise RecipeError(f"{ready.recipe.task} generates no text", where=args.run, fix="use `launcher predict`")
    context = ready.prepared.context
    _, trained_on = next(sources.examples(ready.recipe.data.train[0], ready.task.TRAITS.formats))
    questions = [ready.task.answers.ask(prompt, trained_on, context) for prompt in prompts]
    how = Generation(args.max_new_tokens, args.num_beams)
    answers = partial(ready.task.answers.answers, asked=questions, context=context, how=how)
    with ready.engine.generating() as model:
        said = answers(model)
        based = _base_answers(ready, answers) if args.base else [None] * len(said)
    for prompt, base, answer in zip(prompts, based, said, strict=True):
        print(f"> {prompt}")
        if base is not None:
            print(f"base:  {base}")
        print(f"{'tuned: ' if base is not None else ''}{answer}\n")
    return 0


def _base_answers(ready: Any, answers: Callable[[Any], list[str]]) -> list[str]:
    """An adapter is switched off; a model that was trained in full is loaded anew as it was."""
    if hasattr(ready.model, "disable_adapter"):
        with ready.model.disable_adapter():
            return answers(ready.model)
    from launcher.model import load

    base = load(ready.recipe, ready.task, ready.plan.model_dtype, ready.prepared.processor)
    return answers(base.to(ready.engine.device))
