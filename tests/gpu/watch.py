"""A program with a deadline: what it has measured by then is kept, and nothing of it goes on running."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Ending:
    """How a program ended: `code` is None where it was stopped, `over_time` says whether for want of time."""

    code: int | None
    over_time: bool
    seconds: float
    said: str

    @property
    def failed(self) -> bool:
        return self.code not in (None, 0)

    @property
    def problem(self) -> str | None:
        """One line that says why the program did not do all it should, or None."""
        if self.over_time:
            return f"stopped after {self.seconds:.0f} s"
        return f"exit code {self.code}: {last_line(self.said)}" if self.failed else None


def watch(
    command: Sequence[str | Path],
    seconds: float,
    look: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
    grace_seconds: float = 0,
) -> Ending:
    """Run a program in a process group of its own. `look` is called now and then; it collects, and returns True for enough."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        own = {"stdout": said, "stderr": subprocess.STDOUT, "cwd": ROOT, "start_new_session": True}
        process = subprocess.Popen([str(word) for word in command], env=os.environ | (environment or {}), **own)
        try:
            over_time = _wait(process, start + seconds, look)
        finally:
            code = process.poll()
            _end(process, grace_seconds)
        look()
        return Ending(code, over_time, time.monotonic() - start, _text(said))


def exit_on_sigterm() -> None:
    """So that a program which is told to end first ends what it watches."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _wait(process: subprocess.Popen, deadline: float, look: Callable[[], bool]) -> bool:
    """Until the program has ended or there is enough of it; True where the time was up first."""
    while process.poll() is None:
        if look():
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(0.5)
    return False


def _end(process: subprocess.Popen, grace_seconds: float) -> None:
    """The whole group, even where its leader is gone: first asked, where there is grace, then killed."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None and grace_seconds:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
