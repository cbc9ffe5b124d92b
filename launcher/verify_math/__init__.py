"""Proves on a user's own recipe that one step has the same loss and gradients however its batch is cut.

`variants` lists the ways, `measure` computes one of them with the code that trains, `compare` holds it against the reference,
`ranks` is what each process does, `table` is what a person reads. Here: the processes are started, and their words collected.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import spawn
from launcher.recipe import Recipe
from launcher.verify_math import variants

FACTS = "facts.json"  # written by the one process that takes the reference


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
    """Exit code of the process that takes the reference, and what was found if that is 0. It has said itself what went wrong."""
    with tempfile.TemporaryDirectory(prefix="launcher-verify-math-") as name:
        folder = Path(name)
        codes = {1: spawn.run(1, job.words(folder))}
        if not (folder / FACTS).exists():
            return codes[1] or 1, None
        if job.processes > 1:
            codes[job.processes] = spawn.run(job.processes, job.words(folder))
            if codes[job.processes] == 130:
                return 130, None
        facts = json.loads((folder / FACTS).read_text())
        wanted = variants.listed(recipe, facts["rows"], job.processes, job.pairs)
        return 0, Findings(facts, [_outcome(folder, variant, codes[variant.processes]) for variant in wanted])


def _outcome(folder: Path, variant: variants.Variant, exit_code: int) -> dict[str, Any]:
    """What rank zero measured, unless a rank failed: then what the first that failed said."""
    said = [
        outcome
        for path in sorted(folder.glob(f"outcomes-{variant.processes}-*.jsonl"))
        for outcome in map(json.loads, path.read_text().splitlines())
        if outcome["variant"] == variant.name
    ]
    ended = [outcome for outcome in said if outcome["verdict"] in ("refused", "failed")]
    if ended:
        return min(ended, key=lambda outcome: outcome["time"])
    if len(said) < variant.processes:
        reason = f"its processes ended before it was done, with exit code {exit_code}"
        return {"variant": variant.name, "verdict": "failed", "reason": reason}
    return next(outcome for outcome in said if "loss" in outcome)
