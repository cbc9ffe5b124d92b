"""A real two-node Slurm cluster for the tests in this folder; cluster.sh starts it and ends it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CLUSTER_SH = str(HERE / "cluster.sh")
# Of this test suite alone: a cluster that someone started by hand stays untouched.
TESTBED = {"TESTBED_DIR": "/run/launcher-tests", "TESTBED_NAME": "launcher-tests"}
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


@dataclass(frozen=True)
class Cluster:
    """Submits jobs to the running cluster and waits for them, as a person on its login host would."""

    environment: dict[str, str]

    def call(self, *command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | variables
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)

    def submit(self, *arguments: str, cwd: Path, **variables: str) -> str:
        """`sbatch` with these arguments; returns the job's number. The log is `cwd/slurm-<number>.out`."""
        answer = self.call("sbatch", "--parsable", *arguments, cwd=cwd, **variables)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def wait(self, job: str, cwd: Path, seconds: float = 60) -> tuple[int, str]:
        """The exit code and the log of a job that ends within so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            shown = self.call("scontrol", "--oneliner", "show", "job", job, cwd=cwd).stdout
            fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
            if fields.get("JobState") in ENDED:
                return int(fields["ExitCode"].split(":")[0]), read_log(job, cwd)
            time.sleep(0.2)
        self.call("scancel", job, cwd=cwd)
        raise AssertionError(f"job {job} did not end in {seconds} s\n{read_log(job, cwd)}")


def read_log(job: str, cwd: Path) -> str:
    path = cwd / f"slurm-{job}.out"
    return path.read_text() if path.exists() else "(no log)"


def what_is_missing() -> str | None:
    """Why no cluster can run here, or None."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=search_path())]
    if missing:
        return f"{', '.join(missing)} not found; `bash tests/slurm/cluster.sh install` brings them"
    if os.geteuid() != 0:
        return "only root can make the nodes' namespaces"
    namespaces = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True).returncode != 0:
        return "this root may not make namespaces (a container without CAP_SYS_ADMIN)"
    return None


def search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def job_environment() -> dict[str, str]:
    """Ours, without what an outer Slurm job or an outer launcher would pass on to the jobs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    own = {"PATH": f"{TESTBED['TESTBED_DIR']}/bin:{search_path()}", "SLURM_CONF": "/dev/null"}
    return kept | TESTBED | own | {"LAUNCHER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two idle nodes, `node1` and `node2`, of 4 CPUs and 2 fake GPUs each."""
    if reason := what_is_missing():
        pytest.skip(f"slurm: {reason}")
    environment = os.environ | TESTBED
    # The lock makes a second test run wait; what a killed one left behind is cleared by `stop`.
    with open(f"{TESTBED['TESTBED_DIR']}.tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["bash", CLUSTER_SH, "stop"], env=environment, check=True, capture_output=True)
        try:
            subprocess.run(["bash", CLUSTER_SH, "start", "2"], env=environment, check=True, capture_output=True)
            yield Cluster(job_environment())
        finally:
            subprocess.run(["bash", CLUSTER_SH, "stop"], env=environment, check=True, capture_output=True)
