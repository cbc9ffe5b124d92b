"""Proves on a user's own recipe that one step has the same loss and gradients however its batch is cut.

`variants` lists the ways, `measure` computes one of them with the code that trains, `compare` holds it against the reference,
`ranks` is what each process does, `table` is what a person reads. Here: the processes are started, and their words collected.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import spawn
from launcher.recipe import Recipe
from launcher.verify_math import variants

FACTS = "facts.json"  # written by the one process that takes the reference
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """What was asked for. `rows`: how many of the first rows make the batch; `pairs`: combine two changes at a time, too."""

    recipe: str
    overrides: tuple[str, ...]
    processes: int
    rows: int
    as_configured: bool
    pairs: bool

    def words(self, folder: Path) -> list[str]:
        """The command line of a process that writes what it finds into `folder`."""
        options = ["--nproc", str(self.processes), "--rows", str(self.rows), "--into", str(folder)]
        options += ["--as-configured"] * self.as_configured + ["--all"] * self.pairs
        return ["verify-math", self.recipe, *self.overrides, *options]


@dataclass(frozen=True)
class Findings:
    """`facts` of the batch and the reference, and what became of each variant, in order."""

    facts: dict[str, Any]
    outcomes: list[dict[str, Any]]

    def named(self, verdict: str) -> list[str]:
        return [outcome["variant"] for outcome in self.outcomes if outcome["verdict"] == verdict]


def prove(job: Job, recipe: Recipe) -> tuple[int, Findings | None]:
    """0 and what was found; or the exit code of the process that could not take the reference, and has said why."""
    with tempfile.TemporaryDirectory(prefix="launcher-verify-math-") as name:
        folder = Path(name)
        code = _start(job, 1, folder)
        if not (folder / FACTS).exists():
            return code or 1, None
        facts = json.loads((folder / FACTS).read_text())
        wanted = variants.listed(recipe, facts["rows"], job.processes, job.pairs)
        for processes in sorted({variant.processes for variant in wanted}):
            _complete(job, processes, folder, [v.name for v in wanted if v.processes == processes])
        return 0, Findings(facts, [_outcome(folder, variant) for variant in wanted])


def outcomes(folder: Path, processes: int) -> list[dict[str, Any]]:
    """All that processes of this number have written so far."""
    files = sorted(folder.glob(f"outcomes-{processes}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _complete(job: Job, processes: int, folder: Path, names: list[str]) -> None:
    """Start processes until each variant has an outcome: one that fails ends them all, since its ranks wait for each other."""
    code, before = 0, None
    while left := [name for name in names if name not in {o["variant"] for o in outcomes(folder, processes)}]:
        if left == before:  # they did not even live to say so
            outcome = {"variant": left[0], "verdict": "failed", "reason": f"exit code {code}", "time": time.time()}
            (folder / f"outcomes-{processes}-{left[0]}.jsonl").write_text(json.dumps(outcome) + "\n")
        else:
            code, before = _start(job, processes, folder), left


def _start(job: Job, processes: int, folder: Path) -> int:
    code = spawn.run(processes, job.words(folder))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _outcome(folder: Path, variant: variants.Variant) -> dict[str, Any]:
    """What rank zero measured, unless a rank could not do it: then what the first of those said."""
    said = [outcome for outcome in outcomes(folder, variant.processes) if outcome["variant"] == variant.name]
    ended = [outcome for outcome in said if outcome["verdict"] in ("refused", "failed")]
    return min(ended, key=lambda outcome: outcome["time"]) if ended else next(o for o in said if "loss" in o)
