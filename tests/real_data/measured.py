"""What the measurements on real data share: runs in this process, and the JSON file that LAUNCHER_RESULTS names."""

import contextlib
import io
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.__main__ import main

DATA = Path(os.environ.get("LAUNCHER_DATA", "."))
RESULTS = os.environ.get("LAUNCHER_RESULTS")
SEEDS = (0, 1, 2)


def evaluated(run: Path, data: Sequence[dict[str, Any]], metric: str) -> float:
    """A metric of a finished run on other data."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["evaluate", str(run), "--json", f"data.eval={json.dumps(data)}"]) == 0
    return float(json.loads(said.getvalue().strip().splitlines()[-1])[f"eval/{metric}"])


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The values of all seeds and their mean, to four places."""
    return {"seeds": [round(value, 4) for value in values], "mean": round(statistics.mean(values), 4)}


def record(name: str, measured: Any) -> None:
    """Add to the results, and say it."""
    print(name, json.dumps(measured))
    if RESULTS:
        path = Path(RESULTS)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | {name: measured}, indent=2) + "\n")
