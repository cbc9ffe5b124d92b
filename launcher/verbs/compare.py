"""Compare runs side by side: what differs in their recipes, what each came to, and what it took; --html draws their curves.

A folder that is no run is named and left out; one that is unfinished or broken is shown as far as it can be read.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, for example sweep/trials/*")
    parser.add_argument("--html", metavar="FILE", help="write a page with tables and the curves of all runs")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def run(args: argparse.Namespace) -> int:
    from launcher.errors import EnvironmentProblem
    from launcher.report import comparison

    runs, left_out = comparison.compared([Path(word) for word in args.runs])
    if not runs:
        raise EnvironmentProblem("; ".join(left_out), fix="name folders of runs; `launcher runs` lists them")
    if args.json:
        found = {"runs": [comparison.record(one) for one in runs], "differences": comparison.differences(runs)}
        print(json.dumps(found | {"left_out": left_out}, indent=2))
    else:
        _print(runs, comparison.differences(runs), comparison.rows(runs))
    for sentence in [*left_out, *(f"{one.path}: {said}" for one in runs for said in one.unreadable)]:
        print(sentence, file=sys.stderr)
    if args.html:
        _write(Path(args.html), runs, left_out, aside=args.json)
    return 0


def _print(runs: Any, differences: dict[str, list[str]], rows: list[tuple[str, list[str], int | None]]) -> None:
    for number, one in enumerate(runs, 1):
        print(f"{number:>2}  {one.label}" + (f": {one.error.splitlines()[0]}" if one.error else ""))
    numbers = [str(number) for number in range(1, len(runs) + 1)]
    print("\nrecipes" if differences else "\nrecipes differ in nothing but names and folders")
    if differences:
        print(_table(numbers, [(key, cells) for key, cells in differences.items()]))
    print("\nresults (* is the best)")
    starred = [(name, [f"{c} *" if i == best else c for i, c in enumerate(cells)]) for name, cells, best in rows]
    print(_table(numbers, starred))


def _table(heads: list[str], rows: list[tuple[str, list[str]]]) -> str:
    whole = [["", *heads], *([name, *map(_one_line, cells)] for name, cells in rows)]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    lines = []
    for first, *rest in whole:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _one_line(cell: str) -> str:
    """A long value by its end, which for paths is what differs."""
    text = " ".join(cell.split())
    return text if len(text) <= 40 else f"…{text[-39:]}"


def _write(path: Path, runs: Any, left_out: list[str], aside: bool) -> None:
    from launcher.errors import StorageError
    from launcher.report import comparison_page

    page = comparison_page.render(runs, left_out)
    try:
        path.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise StorageError(f"cannot be written: {error.strerror}", where=str(path), fix="name another file") from error
    print(f"written: {path}", file=sys.stderr if aside else sys.stdout)
