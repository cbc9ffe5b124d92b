"""List the runs below a folder: state, task, last step, data seen, best metric, evaluation loss before and after."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.report.facts import Facts

HEADINGS = ("run", "state", "task/method", "step", "seen", "best", "eval loss", "started", "duration")
RIGHT_ALIGNED = {"step", "seen", "duration"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", nargs="?", default="runs", help="where to look (default: runs)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def run(args: argparse.Namespace) -> int:
    from launcher.errors import EnvironmentProblem
    from launcher.report.facts import gather
    from launcher.run_folder import find_runs

    if not Path(args.root).is_dir():
        raise EnvironmentProblem("there is no such folder", where=args.root, fix="give the folder that holds the runs")
    folders = find_runs(args.root)
    # Oldest first: the newest run stands next to the prompt.
    runs = sorted(((f, gather(f)) for f in folders), key=lambda pair: (pair[1].started or 0.0, str(pair[0].path)))
    if args.json:
        print(json.dumps([_record(folder.path, facts) for folder, facts in runs], indent=2))
    else:
        names = [str(folder.path.relative_to(args.root)) for folder, _ in runs]
        rows = [_row(name if name != "." else facts.name, facts) for name, (_, facts) in zip(names, runs, strict=True)]
        print(_table(rows) if rows else f"no runs in {args.root}")
    for folder in folders:
        for sentence in folder.unreadable:
            print(f"{folder.path}: {sentence}", file=sys.stderr)
    return 0


def _row(name: str, facts: "Facts") -> tuple[str, ...]:
    from launcher.report.facts import after, values_of
    from launcher.report.words import NOTHING, amount, duration, number

    losses = values_of(facts.evaluations, "eval/loss")
    ends = dict.fromkeys((losses[0], after(losses, facts.exported_step))) if losses else {}
    started = datetime.fromtimestamp(facts.started).strftime("%Y-%m-%d %H:%M") if facts.started is not None else NOTHING
    return (
        name,
        facts.state,
        "/".join(filter(None, (facts.task, facts.method))) or NOTHING,
        number(facts.step),
        NOTHING if facts.seen is None else amount(facts.seen, facts.unit),
        f"{facts.best.metric} {number(facts.best.value)} at {facts.best.step:,}" if facts.best else NOTHING,
        " → ".join(number(loss) for _, loss in ends) or NOTHING,
        started,
        duration(facts.seconds),
    )


def _record(path: Path, facts: "Facts") -> dict[str, Any]:
    """The same for programs: full precision, seconds, times in UTC, null for what is not there."""
    from launcher.report.facts import values_of

    losses = [value for _, value in values_of(facts.evaluations, "eval/loss")]
    started = datetime.fromtimestamp(facts.started, UTC).isoformat() if facts.started is not None else None
    return {
        "path": str(path),
        "name": facts.name,
        "state": facts.state,
        "task": facts.task or None,
        "method": facts.method or None,
        "last_step": facts.step,
        "exported_step": facts.exported_step,
        "seen": facts.seen,
        "unit": None if facts.seen is None else facts.unit,
        "best": vars(facts.best) if facts.best else None,
        "eval_loss_first": losses[0] if losses else None,
        "eval_loss_last": losses[-1] if losses else None,
        "started": started,
        "duration_seconds": facts.seconds,
    }


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    lines = []
    for cells in (HEADINGS, *rows):
        aligned = (
            cell.rjust(width) if heading in RIGHT_ALIGNED else cell.ljust(width)
            for cell, width, heading in zip(cells, widths, HEADINGS, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)
