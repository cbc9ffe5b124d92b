"""One trial: a run of the launcher in a process of its own, and what its run folder tells about it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import Interrupted, Preempted
from launcher.recipe.searching import override
from launcher.report.facts import after, gather, values_of
from launcher.run_folder import RunFolder
from launcher.spawn import die_with_parent
from launcher.sweep.place import Place

STOPPED = (Preempted.exit_code, Interrupted.exit_code)
ENDED_BY_REQUEST = (*STOPPED, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM)  # also before it could save itself
PATIENCE_SECONDS = 300.0  # in which a trial that is asked to end saves itself
LAST_WORDS = 2000  # bytes of its output that are read for an error


def command(place: Place, number: int, values: Mapping[str, Any], nproc: int) -> list[str]:
    """What starts a trial, or goes on with it: the same words."""
    words = [override(key, value) for key, value in values.items()]
    several = ["--nproc", str(nproc)] if nproc > 1 else []
    folder = f"output_dir={place.trial(number)}"
    return [sys.executable, "-m", "launcher", "train", str(place.recipe), *words, folder, "--resume", "auto", *several]


@dataclass
class Trial:
    """A trial at work. `seen`: steps whose evaluation was reported; `pruned_at`: the step at which it was given up."""

    trial_id: int
    number: int
    values: Mapping[str, Any]
    folder: RunFolder
    slot: int = 0
    process: subprocess.Popen[bytes] | None = None
    seen: set[int] = field(default_factory=set)
    pruned_at: int | None = None
    asked_at: float | None = None
    restarts: int = 0
    beat_at: float = field(default_factory=time.monotonic)
    _size: int = -2  # of metrics.jsonl when all of it had been reported
    _looked: int = -1

    def evaluations(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of the evaluations that are new, in order; that before training tells nothing about the values."""
        file = self.folder.path / "metrics.jsonl"
        size = file.stat().st_size if file.exists() else -1
        if size == self._size:
            return []
        self._looked = size
        found = values_of(self.folder.metrics(), metric)
        return [(step, value) for step, value in found if step > 0 and step not in self.seen]

    def is_read(self) -> None:
        """All that `evaluations` gave last has been reported."""
        self._size = self._looked

    def code(self) -> int | None:
        """What its process ended with; None while it works."""
        return self.process.poll() if self.process is not None else None

    def ask_to_end(self) -> bool:
        """It saves itself and ends with 85; one that does not in time is ended. Whether it had to be asked."""
        if self.process is None or self.process.poll() is not None or self.asked_at is not None:
            return False
        self.asked_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return True

    def insist(self) -> None:
        if self.asked_at is not None and time.monotonic() - self.asked_at > PATIENCE_SECONDS:
            self.kill()

    def kill(self) -> None:
        """Its ranks, if it has any, die with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Its output is appended to `trials/0007.log`. It dies with this process, and hears no Ctrl-C of the terminal."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            words,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            preexec_fn=die_with_parent,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Outcome:
    """`value` is the metric of what was exported: the best, where the recipe keeps the best, else the last."""

    value: float | None
    step: int | None
    seconds: float | None
    exit_code: int
    error: str


def outcome(folder: RunFolder, metric: str, code: int) -> Outcome:
    """What came of a trial that ended with `code`."""
    facts = gather(folder)
    found = values_of(facts.evaluations, metric)
    step, value = after(found, facts.exported_step) if found and code == 0 else (None, None)
    error = "" if code == 0 else _error(folder, code)
    if code == 0 and value is None:
        error = f"it measured no {metric}, or none that is finite"
    return Outcome(value, step, facts.seconds, code, error)


def _error(folder: RunFolder, code: int) -> str:
    """The message of its last attempt, or its last line."""
    if code < 0:
        return f"it was ended by signal {-code} ({signal.strsignal(-code)})"
    last = (folder.attempts() or [{}])[-1]
    if last.get("event") == "end" and last.get("exit_code") == code and last.get("error"):
        return str(last["error"])
    log = folder.path.with_suffix(".log")
    said = log.read_bytes()[-LAST_WORDS:].decode(errors="replace").split("\n") if log.exists() else []
    lines = [line.removeprefix("launcher: ").strip() for line in said if line.strip()]
    return lines[-1] if lines else f"it ended with {code} and said nothing"
