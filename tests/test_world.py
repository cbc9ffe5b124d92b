"""What the variables of whoever started a process tell about the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import EnvironmentProblem
from launcher.world import launched

MEETING = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", **MEETING}
DEEPSPEED = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "2", **MEETING}
BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}  # not yet a step of srun


@pytest.mark.parametrize(
    ("environment", "nodes", "per_node"),
    [
        ({}, 1, 1),
        (TORCHRUN, 2, 4),
        (DEEPSPEED, 4, 2),
        (TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0"}, 1, 1),
        (BATCH_SCRIPT, 1, 1),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, 1, 1),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 1, 1),
        ({"SLURM_STEP_NUM_TASKS": "2"} | TORCHRUN, 2, 4),
    ],
)
def test_nodes_and_processes(environment: dict[str, str], nodes: int, per_node: int) -> None:
    assert launched(environment) == (nodes, per_node)


@pytest.mark.parametrize(
    ("environment", "problem", "fix"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", **MEETING}, "each would train alone", "add --multi_gpu"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 processes", "slurm/train.sbatch"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun started 4 processes", "start with torchrun"),
        ({"PMI_SIZE": "4"}, "mpirun started 4 processes", "start with torchrun"),
        (MEETING, "MASTER_ADDR is set, but not RANK", "unset MASTER_ADDR"),
        ({"WORLD_SIZE": "2", **MEETING}, "MASTER_ADDR and WORLD_SIZE are set", "unset MASTER_ADDR WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2", **MEETING}, "not LOCAL_RANK, LOCAL_WORLD_SIZE", "start with torchrun"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "8 processes, 3 of them on this node", "--nproc-per-node"),
    ],
)
def test_one_of_several_that_would_train_alone_is_refused(environment: dict[str, str], problem: str, fix: str) -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        launched(environment)
    assert problem in refused.value.problem and fix in refused.value.fix


@pytest.mark.slow
def test_accelerate_on_cpus_is_not_taken_for_two_machines(recipe: Path, tmp_path: Path) -> None:
    """It starts one process on each machine and tells neither that there is another."""
    where = ["--num_machines=2", "--num_processes=2", "--machine_rank=0", "--main_process_ip=127.0.0.1"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", *where, "--main_process_port=29500"]
    command = [*accelerate, "-m", "launcher", str(recipe), f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 1 and "add --multi_gpu" in done.stderr
    assert not (tmp_path / "run").exists()
