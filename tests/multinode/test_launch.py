"""torchrun and accelerate launch on two hosts train what one process on one host trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from .conftest import OPTIONS, TEN_STEPS, prepared_in
from .hosts import PORT, Host

pytestmark = pytest.mark.multinode

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2"]


def torchrun(number: int, per_node: int) -> list[str]:
    where = [f"--node-rank={number}", "--master-addr=node0", f"--master-port={PORT}"]
    return [*TORCHRUN, f"--nproc-per-node={per_node}", *where]


def torchrun_c10d(number: int, per_node: int) -> list[str]:
    return [
        *TORCHRUN,
        f"--nproc-per-node={per_node}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=node0:{PORT}",
        "--rdzv-id=x",
    ]


def accelerate(number: int, per_node: int) -> list[str]:
    where = [f"--machine_rank={number}", "--main_process_ip=10.77.0.1", f"--main_process_port={PORT}"]
    return [*ACCELERATE, f"--num_processes={2 * per_node}", *where]


def launch(hosts: list[Host], starter, per_node: int, caches: list[str], words: list[str]) -> list[subprocess.Popen]:
    """The launcher on each host by `starter(number, per_node)`; what it prints is in `<host's folder>/output`."""
    started = []
    for number, host in enumerate(hosts):
        command = ["env", f"XDG_CACHE_HOME={caches[number]}", *starter(number, per_node), "-m", "launcher", *words]
        output = (host.folder / "output").open("w")
        started.append(subprocess.Popen(host.command(*command), stdout=output, stderr=subprocess.STDOUT))
    return started


def output(host: Host) -> str:
    return (host.folder / "output").read_text()


def value(run: Path, name: str) -> object:
    return json.loads((run / "plan.json").read_text())["values"][name]["value"]


@pytest.mark.parametrize(
    ("starter", "per_node", "strategy"),
    [
        pytest.param(torchrun, 1, "ddp"),
        pytest.param(torchrun, 1, "zero1", marks=pytest.mark.slow),
        pytest.param(torchrun_c10d, 2, "zero3", marks=pytest.mark.slow),
        pytest.param(accelerate, 1, "ddp", marks=pytest.mark.slow),
        pytest.param(accelerate, 1, "zero2", marks=pytest.mark.slow),
    ],
)
def test_two_hosts_train_what_one_process_trains(
    recipe: Path, one_process: Path, hosts: list[Host], caches: list[str], tmp_path: Path, starter, per_node, strategy
) -> None:
    run = tmp_path / "run"
    (run / "log").mkdir(parents=True)
    hosts[1].reads_only(run, but="log")
    words = [str(recipe), *TEN_STEPS, f"output_dir={run}", "export.verify=true", f"distributed.strategy={strategy}"]
    started = launch(hosts, starter, per_node, caches, words)
    assert [process.wait(150) for process in started] == [0, 0], output(hosts[0]) + output(hosts[1])

    assert tiny.losses(run).keys() == set(range(1, 11))
    assert tiny.losses(run) == pytest.approx(tiny.losses(one_process), rel=1e-5)
    assert tiny.losses(run, "eval/loss") == pytest.approx(tiny.losses(one_process, "eval/loss"), rel=1e-5)
    assert [value(run, name) for name in ("nodes", "processes_per_node", "world_size")] == [2, per_node, 2 * per_node]
    assert value(run, "gradient_accumulation_steps") == 2 / per_node
    assert {path.name for path in (run / "log").iterdir()} == {f"rank-{rank}.log" for rank in range(2 * per_node)}
    attempts = map(json.loads, (run / "attempts.jsonl").read_text().splitlines())
    assert [(line["event"], line["host"], line["world"]) for line in attempts] == [
        ("start", "node0", 2 * per_node),
        ("end", "node0", 2 * per_node),
    ]
    assert json.loads((run / "proof" / "verdict.json").read_text())["ok"] is True
    assert [prepared_in(cache) for cache in caches] == [2, 2], "each host prepares data.train and data.eval once"
    assert "gloo talks through eth0 (10.77.0.1)" in output(hosts[0])


@pytest.mark.slow
def test_a_host_that_loses_power_ends_torchrun_on_the_other(
    recipe: Path, hosts: list[Host], caches: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [str(recipe), *OPTIONS, "training.max_steps=100000", f"output_dir={run}"]
    started = launch(hosts, torchrun, 1, caches, words)
    tiny.wait_for_step(run, 3)
    hosts[1].stop()
    assert started[0].wait(60) == 1, "torchrun knows no other failure"
    last = json.loads((run / "attempts.jsonl").read_text().splitlines()[-1])
    assert last["exit_code"] == 86 and "[10.77.0.2]" in last["error"]
    assert "go on with --resume auto" in output(hosts[0])
