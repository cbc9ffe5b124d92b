"""Lost ranks, on this host; tests/multinode loses whole hosts."""

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from launcher import engine, log, peers, recipe, run
from launcher.errors import HangError, OutOfMemoryProblem
from launcher.recipe import Recipe

TIMEOUT_MINUTES = 0.05


def in_two_ranks(path: Path, act: Callable[[Any], None], told: Path) -> dict[str, Any]:
    """What becomes of rank zero's `act(engine)`: its error, the exit code and the seconds that it took."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(tiny.PRELOAD)
    port = tiny.free_port()
    ranks = [context.Process(target=_rank, args=(rank, port, str(path), act, str(told))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    ranks[0].join(60)
    for rank in ranks:
        rank.kill()
    return json.loads(told.read_text())


def _rank(rank: int, port: int, path: str, act: Callable[[Any], None], told: str) -> None:
    tiny.set_rank(rank, 2, port)
    loaded: Recipe = recipe.load(path, [f"distributed.timeout_minutes={TIMEOUT_MINUTES}"])
    running = engine.Engine(run.prepare_all(loaded, engine.world()).plan)
    running.barrier()
    log.set_up(rank, Path(told).parent)
    started = time.monotonic()
    try:
        with peers.watched(TIMEOUT_MINUTES):
            act(running)
    except Exception as error:
        if rank == 0:
            seconds, code = time.monotonic() - started, getattr(error, "exit_code", None)
            Path(told).write_text(json.dumps({"error": str(error), "exit_code": code, "seconds": seconds}))


def rank_one_is_busy(running: Any) -> None:
    if running.rank == 1:
        time.sleep(60)
    running.barrier()


def rank_one_runs_out_of_memory(running: Any) -> None:
    if running.rank == 1:
        raise OutOfMemoryProblem("2 GiB are missing")
    running.barrier()


def test_messages_between_ranks_keep_to_the_recipes_timeout(recipe: Path, tmp_path: Path) -> None:
    told = in_two_ranks(recipe, rank_one_is_busy, tmp_path / "told")
    assert told["exit_code"] == HangError.exit_code == 86
    assert "did not answer within 0.05 minutes" in told["error"]
    assert 2.9 < told["seconds"] < 30


def test_rank_zero_has_the_exit_code_of_the_rank_that_failed_first(recipe: Path, tmp_path: Path) -> None:
    told = in_two_ranks(recipe, rank_one_runs_out_of_memory, tmp_path / "told")
    assert told["exit_code"] == 91
    assert "ended with OutOfMemoryProblem: 2 GiB" in (tmp_path / "log" / "rank-1.log").read_text()
    assert told["error"].startswith("rank 1 on ") and told["error"].endswith(" failed: 2 GiB are missing")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="^shapes do not match$"), peers.watched(1.0):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("raised", "said", "fix"),
    [
        (
            RuntimeError("[/src/gloo/pair.cc:553] Connection closed by peer [10.0.0.2]:4. This is typically caused by"),
            "another process has ended: Connection closed by peer [10.0.0.2]:4",
            "log/rank-N.log; go on with --resume auto",
        ),
        (
            RuntimeError("[/src/gloo/buffer.cc:72] Timed out waiting 60000ms for recv operation to complete"),
            "another process is lost, or did not answer within 1 minutes: Timed out waiting 60000ms",
            "log/rank-N.log; go on with --resume auto",
        ),
        (
            RuntimeError("Gloo connectFullMesh failed with [/src/gloo/pair.cc:152] timed out, remote=[127.0.0.1]:3"),
            "do not reach each other: Gloo connectFullMesh failed with timed out, remote=[127.0.0.1]:3",
            "GLOO_SOCKET_IFNAME",
        ),
        (
            torch.distributed.DistStoreError("Timed out after 61 seconds waiting for clients. 1/2 clients joined."),
            "not all processes have come to the meeting point: Timed out after 61 seconds waiting for clients. 1/2",
            "still prepares its data after the 1 minutes",
        ),
    ],
)
def test_what_the_libraries_raise_is_said_with_what_to_do(raised: Exception, said: str, fix: str) -> None:
    with pytest.raises(HangError) as lost, peers.watched(1.0):
        raise raised
    assert said in lost.value.problem and fix in lost.value.fix
    assert "/src/" not in str(lost.value)
