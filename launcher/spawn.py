"""`--nproc N`: N ranks on this machine, started and watched without a further tool. Knows no torch, so it starts at once."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from launcher.errors import RecipeError

GRACE_SECONDS = 20.0
PR_SET_PDEATHSIG = 1


def run(num_processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m launcher ARGUMENTS` in N ranks; the exit code is that of the rank that failed first, or 0.

    A request to stop (Ctrl-C, SIGTERM, SIGUSR2) is passed on to every rank. Ranks die with this process.
    """
    refuse_none(num_processes)
    port = _free_port()
    ranks = [_start(rank, num_processes, port, arguments) for rank in range(num_processes)]
    previous = {
        number: signal.signal(number, lambda n, _: _tell(ranks, n))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    }
    try:
        return _watch(ranks)
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
        preexec_fn=_die_with_parent,
        start_new_session=True,
    )


def _watch(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; once one has failed, the others get a while to end by themselves and are then ended."""
    first_failure, deadline = 0, None
    while any(rank.poll() is None for rank in ranks):
        failed = [rank.returncode for rank in ranks if rank.poll()]
        if failed and not first_failure:
            first_failure, deadline = failed[0], time.monotonic() + GRACE_SECONDS
        if deadline and time.monotonic() > deadline:
            _tell(ranks, signal.SIGKILL)
        time.sleep(0.05)
    code: int = first_failure or next((rank.returncode for rank in ranks if rank.returncode), 0)
    return 128 - code if code < 0 else code


def _tell(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _die_with_parent() -> None:
    """Otherwise a killed launcher leaves its ranks on the GPUs (Linux only; elsewhere they end when their peers do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
