"""slurm/train.sbatch on two real nodes: what it tells the ranks, and that they train what one host would."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import REPOSITORY, Cluster, job_environment, read_log

pytestmark = pytest.mark.slurm

SCRIPT = str(REPOSITORY / "slurm" / "train.sbatch")

# Stands in for the launcher: each rank writes what it was given and shows that it reaches rank 0 at the head address.
# `hold=FILE` keeps the job until FILE exists and takes the next port too; with `fail=RANK` that one exits 89 and the
# others sleep.
FAKE_LAUNCHER = """
import json, os, pathlib, socket, sys, time

rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
listener = socket.create_server(("", port)) if rank == 0 else None
next_port = socket.create_server(("", port + 1)) if rank == 0 and "hold" in options else None
for attempt in range(100):
    try:
        reached = socket.create_connection((os.environ["MASTER_ADDR"], port)).getpeername()[0]
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
told = {"environment": dict(os.environ), "arguments": sys.argv[1:], "host": socket.gethostname(), "reached": reached}
pathlib.Path("told").mkdir(exist_ok=True)
part = pathlib.Path(f"told/{os.environ['SLURM_JOB_ID']}-{rank}.part")
part.write_text(json.dumps(told))
part.rename(part.with_suffix(".json"))
while "hold" in options and not pathlib.Path(options["hold"]).exists():
    time.sleep(0.1)
if "fail" in options:
    sys.exit(89) if rank == int(options["fail"]) else time.sleep(60)
time.sleep(0.5)  # the other ranks still have to reach rank 0
"""


@pytest.fixture
def submit_folder(tmp_path: Path) -> Path:
    """A folder to submit from, with the fake launcher and a recipe file that it does not read."""
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "__init__.py").touch()  # without it an installed launcher would go before
    (tmp_path / "launcher" / "__main__.py").write_text(FAKE_LAUNCHER)
    (tmp_path / "recipe.yaml").write_text("")
    return tmp_path


def told(folder: Path, job: str) -> list[dict]:
    """What the ranks of a job wrote, by rank."""
    files = folder.glob(f"told/{job}-*.json")
    return sorted((json.loads(file.read_text()) for file in files), key=lambda one: int(one["environment"]["RANK"]))


def column(ranks: list[dict], name: str) -> list[str]:
    return [rank["environment"].get(name) for rank in ranks]


def test_each_rank_is_told_its_place(cluster: Cluster, submit_folder: Path) -> None:
    arguments = ["recipe.yaml", "--resume", "auto", "name=two words", "data.eval=[{path: '$HOME/*.jsonl'}]", ""]
    job = cluster.submit("-N2", "--ntasks-per-node=2", "--distribution=cyclic", SCRIPT, *arguments, cwd=submit_folder)
    code, log = cluster.wait(job, submit_folder)
    ranks = told(submit_folder, job)

    assert code == 0, log
    assert column(ranks, "RANK") == ["0", "1", "2", "3"]
    assert column(ranks, "LOCAL_RANK") == ["0", "1", "0", "1"]
    assert [rank["host"] for rank in ranks] == ["node1", "node1", "node2", "node2"]
    assert set(column(ranks, "WORLD_SIZE")) == {"4"} and set(column(ranks, "LOCAL_WORLD_SIZE")) == {"2"}
    assert set(column(ranks, "MASTER_ADDR")) == {"node1"} and len(set(column(ranks, "MASTER_PORT"))) == 1
    assert {rank["reached"] for rank in ranks} == {"10.77.0.11"}
    assert all(rank["arguments"] == arguments for rank in ranks)
    assert "world size 4" in log and f"node1:{ranks[0]['environment']['MASTER_PORT']}" in log and sys.executable in log


@pytest.mark.parametrize("request_gpus", [["--gpus-per-node=2", "--cpus-per-gpu=2"], ["--gres=gpu:2", "--exclusive"]])
def test_each_gpu_has_a_rank_that_sees_all_gpus_of_its_node(
    cluster: Cluster, submit_folder: Path, request_gpus: list[str]
) -> None:
    options = ["-N2", "--gpu-bind=single:1", *request_gpus]
    job = cluster.submit(*options, SCRIPT, "recipe.yaml", cwd=submit_folder)
    code, log = cluster.wait(job, submit_folder)
    ranks = told(submit_folder, job)
    assert code == 0, log
    assert column(ranks, "LOCAL_RANK") == ["0", "1", "0", "1"]
    assert set(column(ranks, "CUDA_VISIBLE_DEVICES")) == {"0,1"}


def test_without_gpus_one_rank_has_all_cpus_of_its_node(cluster: Cluster, submit_folder: Path) -> None:
    # By salloc, where the script runs on the login host and Slurm's variables are fewer.
    command = ["salloc", "-N2", "-c3", "bash", SCRIPT, "recipe.yaml", "within=salloc"]
    environment = {name: value for name, value in cluster.environment.items() if name != "OMP_NUM_THREADS"}
    ended = Cluster(environment).call(*command, cwd=submit_folder)
    ranks = told(submit_folder, "*")
    assert ended.returncode == 0, ended.stderr
    assert column(ranks, "RANK") == ["0", "1"] and column(ranks, "OMP_NUM_THREADS") == ["3", "3"]


def test_two_jobs_at_once_meet_at_different_ports(cluster: Cluster, submit_folder: Path) -> None:
    # The first also listens on the next port, which is where the second job's number points.
    first = cluster.submit("-N2", SCRIPT, "recipe.yaml", "hold=released", cwd=submit_folder)
    deadline = time.monotonic() + 30
    while len(told(submit_folder, first)) < 2:
        assert time.monotonic() < deadline, read_log(first, submit_folder)
        time.sleep(0.1)
    second = cluster.submit("-N2", SCRIPT, "recipe.yaml", cwd=submit_folder)
    code, log = cluster.wait(second, submit_folder)
    (submit_folder / "released").touch()

    assert code == 0, log
    assert cluster.wait(first, submit_folder)[0] == 0
    assert int(second) == int(first) + 1
    taken = int(column(told(submit_folder, first), "MASTER_PORT")[0])
    assert set(column(told(submit_folder, second), "MASTER_PORT")) == {str(taken + 2)}


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_the_exit_code_of_one_rank_ends_the_job(cluster: Cluster, submit_folder: Path, failing_rank: int) -> None:
    job = cluster.submit("-N2", SCRIPT, "recipe.yaml", f"fail={failing_rank}", cwd=submit_folder)
    code, log = cluster.wait(job, submit_folder, seconds=30)  # the other rank would sleep for 60
    assert code == 89, log


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        (["-N2"], [], "no recipe was given; usage: sbatch"),
        (["-N2"], ["name=x", "recipe.yaml"], "there is no recipe name=x"),
        (["-N2", "--gpus=3", "-c2"], ["recipe.yaml"], "different numbers of GPUs (1, 2)"),
        (["-N2", "--gpus-per-node=2"], ["recipe.yaml"], "ranks per node 2, CPUs per node 1"),
        (["-N2", "--ntasks=3"], ["recipe.yaml"], "use --ntasks-per-node"),
    ],
)
def test_a_bad_submission_is_refused(
    cluster: Cluster, submit_folder: Path, options: list[str], arguments: list[str], message: str
) -> None:
    job = cluster.submit(*options, SCRIPT, *arguments, cwd=submit_folder)
    code, log = cluster.wait(job, submit_folder)
    assert code == 89 and message in log, log
    assert not told(submit_folder, job)


def test_two_nodes_train_what_one_host_trains(cluster: Cluster, tmp_path: Path) -> None:
    rows = (REPOSITORY / "recipes/data/python_qa_train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(rows[:64]))
    (tmp_path / "eval.jsonl").write_text("".join(rows[64:72]))
    arguments = [
        "recipes/gpt_lora.yaml",
        f"data.train=[{{path: {tmp_path / 'train.jsonl'}}}]",
        f"data.eval=[{{path: {tmp_path / 'eval.jsonl'}}}]",
        "training.max_steps=5",
        "logging.logging_steps=1",
        "evaluation.metrics=[loss]",
        "export.verify=false",
    ]
    log = f"--output={tmp_path}/slurm-%j.out"
    options = ["-N2", f"--chdir={REPOSITORY}", log, SCRIPT, *arguments, f"output_dir={tmp_path / 'nodes'}"]
    job = cluster.submit(*options, cwd=tmp_path, PYTHONPATH=import_path())
    code, text = cluster.wait(job, tmp_path, seconds=140)
    assert code == 0, text

    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "launcher",
    ]
    environment = job_environment() | {"PYTHONPATH": import_path()}
    command = [*torchrun, *arguments, f"output_dir={tmp_path / 'host'}"]
    host = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=140)
    assert host.returncode == 0, host.stdout + host.stderr

    losses = train_losses(tmp_path / "nodes")
    assert sorted(losses) == [1, 2, 3, 4, 5]
    assert losses == pytest.approx(train_losses(tmp_path / "host"), rel=1e-5)


def import_path() -> str:
    """Where the jobs' Python finds the launcher and its kernels, installed or not."""
    return f"{REPOSITORY}:{REPOSITORY / 'kernels'}"


def train_losses(run_folder: Path) -> dict[int, float]:
    """Step -> train/loss, as in metrics.jsonl."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
