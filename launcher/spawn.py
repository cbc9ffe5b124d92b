"""`--nproc N`: N ranks on this machine, started and watched without a further tool. Knows no torch, so it starts at once."""

import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from launcher.errors import HangError, RecipeError

GRACE_SECONDS = 20.0
PR_SET_PDEATHSIG = 1
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # to stop; passed on to every rank


def run(num_processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m launcher ARGUMENTS` in N ranks; the exit code is that of the rank that failed first, or 0.

    A request to stop is passed on to every rank. Ranks die with this process.
    """
    refuse_none(num_processes)
    port = _free_port()
    ranks = [_start(rank, num_processes, port, arguments) for rank in range(num_processes)]
    previous = {number: signal.signal(number, lambda n, _: _tell(ranks, n)) for number in REQUESTS}
    try:
        return exit_code(_watch(ranks))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def refuse_none(num_processes: int) -> None:
    """Where no process is started, none fails."""
    if num_processes < 1:
        raise RecipeError(f"--nproc {num_processes} is less than 1", fix="say how many processes to start")


def _start(rank: int, num_processes: int, port: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    world = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", *arguments],
        env=os.environ
        | (world if num_processes > 1 else {}),  # one process is nobody's rank, and needs no process group
        preexec_fn=die_with_parent,
        start_new_session=True,
    )


def _watch(ranks: list[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all; once one has failed, the others get a while to end by themselves and are then ended.

    What each returned, in the order in which they ended.
    """
    ended: dict[int, int] = {}
    deadline = math.inf
    while len(ended) < len(ranks):
        in_time = time.monotonic() < deadline
        if not in_time:
            _tell(ranks, signal.SIGKILL)
        for rank, process in enumerate(ranks):
            if rank not in ended and (code := process.poll()) is not None:
                ended[rank] = code
                if is_lost(code) and in_time:
                    _say_lost(rank, -code)
        if any(ended.values()):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        time.sleep(0.05)
    return list(ended.values())


def exit_code(ended: Sequence[int]) -> int:
    """From what the ranks returned, in the order in which they ended. A lost one is 86, unless another knows a reason."""
    failed = [code for code in ended if code]
    if not failed:
        return 0
    if is_lost(failed[0]):
        return next((code for code in failed if code > 1), HangError.exit_code)
    return 128 - failed[0] if failed[0] < 0 else failed[0]


def is_lost(code: int) -> bool:
    """Whether a signal has ended it that nobody sends to stop a run."""
    return code < 0 and -code not in REQUESTS


def _say_lost(rank: int, number: int) -> None:
    problem = f"rank {rank} is lost: it was ended by signal {number} ({signal.strsignal(number)})"
    print(f"launcher: {problem}; if nobody sent it, `dmesg` may tell why", file=sys.stderr, flush=True)


def _tell(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def die_with_parent() -> None:
    """Otherwise a killed launcher leaves its ranks on the GPUs (Linux only; elsewhere they end when their peers do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
