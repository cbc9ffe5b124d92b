"""Check a recipe, its data and its model's configuration, without training.

Reads every row, tokenises it into the cache that training will use, and says what would be dropped or truncated.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a key of the recipe")


def run(args: argparse.Namespace) -> int:
    from launcher import recipe

    loaded = recipe.load(args.recipe, args.overrides)
    from launcher import engine, log
    from launcher.run import prepare_all

    log.set_up(0)
    prepared = prepare_all(loaded, engine.world())
    plan = prepared.plan
    print(f"model: {plan.model}, {plan.parameters:,} parameters, {plan.trainable_parameters:,} trained")
    for line in plan.stages:
        print(f"stage {line}")
    if plan.labels:
        print(f"labels: {plan.labels}")
    from launcher.recipe.searching import said

    for line in said(loaded):
        print(line)
    print(f"{args.recipe}: fine; {plan.total_steps:,} steps of {plan.global_batch_size} rows")
    return 0
