"""Ends that are not the end: the request to stop, and the record of each attempt."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.errors import exit_code_of


class StopRequest:
    """Set by SIGTERM and SIGUSR2 (Slurm's warning), and by the first Ctrl-C; a second Ctrl-C ends at once.

    The handler only notes the request: saving in a handler is how checkpoints get lost. The loop votes and saves at a step's end.
    """

    def __init__(self) -> None:
        self.asked = self.by_hand = False

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.by_hand:
            raise KeyboardInterrupt
        self.asked, self.by_hand = True, self.by_hand or number == signal.SIGINT


class Attempt:
    """One attempt at a run. `run` is set once it knows where it stands."""

    run: Any = None


@contextmanager
def recorded(folder: Path, engine: Any, first_step: int) -> Iterator[Attempt]:
    """attempts.jsonl: one line when an attempt starts, one when it ends. What decides on a requeue reads the last line."""
    attempt = Attempt()
    path = folder / "attempts.jsonl"
    if not engine.is_main:
        yield attempt
        return
    number = 1 + sum('"start"' in line for line in path.read_text().splitlines()) if path.exists() else 1
    common = {
        "attempt": number,
        "world": engine.world_size,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "first_step": first_step,
    }
    _append(path, common | {"event": "start"})
    try:
        yield attempt
    except BaseException as error:
        _append(
            path,
            common
            | {
                "event": "end",
                "last_step": _last(attempt, first_step),
                "exit_code": exit_code_of(error),
                "error": f"{type(error).__name__}: {error}",
            },
        )
        raise
    steps = {"last_step": _last(attempt, first_step), "exported_step": attempt.run and attempt.run.step}
    _append(path, common | {"event": "end", **steps, "exit_code": 0, "error": None})


def _last(attempt: Attempt, first_step: int) -> int:
    return attempt.run.progress.step if attempt.run else first_step


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record | {"time": time.time()}) + "\n")
        lines.flush()
        os.fsync(lines.fileno())
