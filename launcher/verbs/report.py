"""Write report.html into a run folder: curves, evaluation before and after, samples, plan, recipe, environment."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/gpt_lora-20260302-1405")


def run(args: argparse.Namespace) -> int:
    from launcher import report
    from launcher.errors import EnvironmentProblem
    from launcher.run_folder import MARKERS, RunFolder

    if not RunFolder(args.run).is_run():
        problem = f"is not a run folder: it holds none of {', '.join(MARKERS)}"
        raise EnvironmentProblem(problem, where=args.run, fix="`launcher runs` lists the run folders below runs/")
    print(report.write(args.run))
    return 0
