"""slurm/sweep.sbatch: the tasks of an array on two nodes share the trials of one sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import postgresql
import pytest
import sweeping

from .conftest import REPOSITORY, Cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(postgresql.missing()), reason=postgresql.missing()),
]

SCRIPT = str(REPOSITORY / "slurm" / "sweep.sbatch")
# In place of `python -m launcher sweep WORDS`: the same on stand-ins for the trials.
PYTHON = """#!/bin/sh
shift 3
exec "{python}" "{tests}/sweeping.py" "$@"
"""


def test_two_tasks_on_two_nodes_share_the_trials(cluster: Cluster, tmp_path: Path) -> None:
    python = tmp_path / "python.sh"
    python.write_text(PYTHON.format(python=sys.executable, tests=sweeping.TESTS))
    python.chmod(0o755)
    with postgresql.server() as database:
        path = sweeping.recipe(tmp_path, trials=8, storage=database)
        words = (path.name, f"output_dir={tmp_path / 's'}")
        told = {"LAUNCHER_PYTHON": str(python), "FAKE_TRIAL": '{"steps": 3, "seconds": 0.3}'}
        job = cluster.submit("--array=1-2", "--exclusive", "--output=%a.out", SCRIPT, *words, cwd=tmp_path, **told)
        for task in (1, 2):
            code, _ = cluster.wait(f"{job}_{task}", tmp_path)
            assert code == 0, (tmp_path / f"{task}.out").read_text()
    sweeping.insist_on_whole(tmp_path / "s", 8, steps=3)
    said = [(tmp_path / f"{task}.out").read_text() for task in (1, 2)]
    assert all("\ntrial " in text for text in said), said
    assert {text.split(" on ")[1].split()[0] for text in said} == {"node1", "node2"}


def test_a_line_that_cannot_work_says_why(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    job = cluster.submit(SCRIPT, "recipe.yaml", cwd=tmp_path)
    code, said = cluster.wait(job, tmp_path)
    assert code == 89 and "the tasks need one folder; usage: sbatch --array=1-N" in said
