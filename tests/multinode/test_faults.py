"""A rank, a host or the network fails: the others end soon, say why, and the run goes on from its checkpoint."""

import json
import os
import signal
from pathlib import Path

import pytest
import tiny

from .conftest import OPTIONS
from .hosts import Host, Ranks

pytestmark = pytest.mark.multinode

FORTY = ["training.max_steps=40", "checkpoint.save_steps=10"]
ENDLESS = ["training.max_steps=100000"]
SOON = "distributed.timeout_minutes=0.05"


def words(recipe: Path, run: Path, *more: str) -> list[str]:
    return ["train", str(recipe), *OPTIONS, f"output_dir={run}", *more]


def start(recipe: Path, run: Path, hosts: list[Host], *more: str) -> Ranks:
    return Ranks([words(recipe, run, *more)] * 2, run.with_suffix(".log"), hosts)


def last_attempt(run: Path) -> dict:
    return json.loads((run / "attempts.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process on one host that nothing ends."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.Ranks(1, words(recipe, folder, *FORTY), folder.with_suffix(".log")).wait() == [0]
    return folder


@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGKILL, [86, -signal.SIGKILL]), (signal.SIGUSR2, [85, 85])], ids=["killed", "warned"]
)
def test_what_ends_one_host_ends_both_and_one_host_goes_on(
    recipe: Path, whole: Path, hosts: list[Host], tmp_path: Path, number: int, codes: list[int]
) -> None:
    run = tmp_path / "run"
    ranks = start(recipe, run, hosts, *FORTY)
    tiny.wait_for_step(run, 12)
    os.kill(ranks.processes[1].pid, number)
    assert ranks.wait() == codes, ranks.output(0)
    assert last_attempt(run)["exit_code"] == codes[0]
    assert max(tiny.losses(run)) < 40, "it is to be ended before its end"

    resumed = tiny.Ranks(1, words(recipe, run, *FORTY, "--resume", "auto"), tmp_path / "log")
    assert resumed.wait() == [0]
    assert f"resuming {run} from step" in (tmp_path / "log").read_text()
    assert tiny.losses(run) == pytest.approx(tiny.losses(whole), rel=1e-5)


def test_a_pulled_cable_is_noticed_after_the_timeout(recipe: Path, hosts: list[Host], tmp_path: Path) -> None:
    """Nothing is closed then, so only the clock can tell: also that of the group for counts and messages."""
    run = tmp_path / "run"
    ranks = start(recipe, run, hosts, *ENDLESS, SOON)
    tiny.wait_for_step(run, 3)
    hosts[1].plug("down")
    assert ranks.wait(30) == [86, 86]
    assert last_attempt(run)["exit_code"] == 86
    for rank in range(2):
        assert "another process is lost, or did not answer within 0.05 minutes" in ranks.output(rank)


def test_rank_zero_records_why_another_rank_failed(recipe: Path, hosts: list[Host], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "log").mkdir(parents=True)
    hosts[1].reads_only(run / "log")
    ranks = start(recipe, run, hosts)
    assert ranks.wait() == [1, 1]
    attempt = last_attempt(run)
    assert attempt["exit_code"] == 1 and "rank 1 on node1 failed: OSError: [Errno 30] Read-only" in attempt["error"]


def test_a_host_that_never_comes_is_an_error_after_the_timeout(recipe: Path, hosts: list[Host], tmp_path: Path) -> None:
    missing = words(recipe.with_name("none.yaml"), tmp_path / "run")  # ends before there is a process group
    here = words(recipe, tmp_path / "run", SOON)
    ranks = Ranks([here, missing], tmp_path / "log", hosts)
    assert ranks.wait(60) == [86, 89]
    assert "not all processes have come" in ranks.output(0) and "1/2 clients joined" in ranks.output(0)
