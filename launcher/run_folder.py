"""Reads a run folder: the files that a run leaves behind, whether it is done, still training or was killed.

Nothing here writes, and nothing but the standard library is needed, so that many runs are listed at once. A file that
is missing reads as empty; a line that cannot be read is left out and named in `unreadable`.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKERS = ("attempts.jsonl", "metrics.jsonl", "plan.json")
NOT_SEARCHED = {"checkpoints", "export", "log"}
STATE_OF_EXIT_CODE = {0: "done", 85: "preempted", 130: "interrupted"}
MEANING_OF_EXIT_CODE = {
    86: "a rank hung or was lost",
    87: "loss or gradient not finite",
    88: "no usable checkpoint",
    89: "recipe, data or environment",
    90: "storage",
    91: "out of memory",
    92: "no progress",
}
# A run on another machine cannot be asked whether it lives. It counts as running while its files still change;
# half an hour is the time after which a collective that hangs is given up (distributed.timeout_minutes).
SILENCE_SECONDS = 30 * 60


class RunFolder:
    """One run on disk. Every method reads afresh, so a folder that is still being written can be looked at again."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.unreadable: list[str] = []

    def is_run(self) -> bool:
        return any((self.path / marker).is_file() for marker in MARKERS)

    def metrics(self) -> list[dict[str, Any]]:
        """Training and evaluation lines by step. After a resume a step may be there twice: the last one counts."""
        latest = {(record["step"], kind_of(record)): record for record in self.metrics_as_written()}
        return [latest[key] for key in sorted(latest)]

    def metrics_as_written(self) -> list[dict[str, Any]]:
        """Every readable line in the order of the file, repeated steps included."""
        return self._json_lines("metrics.jsonl", required={"step": int})

    def attempts(self) -> list[dict[str, Any]]:
        """One record per start and per end of a process that worked on this run, oldest first."""
        return self._json_lines("attempts.jsonl", required={"event": str})

    def plan(self) -> dict[str, Any]:
        return dict(self._json("plan.json", {}))

    def environment(self) -> dict[str, Any]:
        return dict(self._json("environment.json", {}))

    def samples(self) -> list[dict[str, Any]]:
        return [sample for sample in self._json("samples.json", []) if isinstance(sample, dict)]

    def evaluation(self) -> dict[str, Any]:
        """The last evaluation in detail, as `launcher.metrics` leaves it: step, task, and what there is to show."""
        return dict(self._json("evaluation.json", {}))

    def schedule(self) -> dict[str, Any]:
        """The planned learning rate and the stages, as `launcher.story` leaves them."""
        return dict(self._json("schedule.json", {}))

    def recipe_text(self) -> str:
        """The recipe as resolved, or an empty string."""
        return self._text("recipe.yaml")

    def state(self) -> str:
        """new | running | done | preempted | interrupted | killed | failed (exit code), from the last attempt."""
        attempts = self.attempts()
        if not attempts:
            return "new"
        last = attempts[-1]
        if last["event"] == "start":
            return "running" if self._is_alive(last) else "killed"
        return state_of_exit_code(last.get("exit_code"))

    def is_begun(self) -> bool:
        """Whether there is a step or a checkpoint, as far as can be told."""
        steps = [record["step"] for record in self.metrics_as_written()]
        steps += [record.get("last_step") or 0 for record in self.attempts()]
        return any(steps) or bool(self.unreadable) or any((self.path / "checkpoints").glob("**/step-*"))

    def last_sign_of_life(self) -> float:
        """Unix seconds of the newest change to what a running process writes; 0.0 when there is nothing."""
        written = [self.path / "attempts.jsonl", self.path / "metrics.jsonl", *self.path.glob("log/*.log")]
        return max((file.stat().st_mtime for file in written if file.is_file()), default=0.0)

    def _is_alive(self, start: dict[str, Any]) -> bool:
        if start.get("host") != socket.gethostname():
            return time.time() - self.last_sign_of_life() < SILENCE_SECONDS
        return process_lives(start.get("pid"), start.get("time"))

    def _text(self, name: str) -> str:
        file = self.path / name
        if not file.is_file():
            return ""
        return file.read_text(encoding="utf-8", errors="replace")

    def _json(self, name: str, empty: Any) -> Any:
        """The content of a JSON file, or `empty` when it is missing or not of `empty`'s type."""
        text = self._text(name)
        if not text:
            return empty
        try:
            content = json.loads(text)
        except ValueError as error:
            self._note(f"{name} is not JSON: {error}")
            return empty
        if not isinstance(content, type(empty)):
            self._note(f"{name} does not hold a JSON {'object' if empty == {} else 'list'}")
            return empty
        return content

    def _json_lines(self, name: str, required: dict[str, Any]) -> list[dict[str, Any]]:
        lines = self._text(name).splitlines()
        records = []
        for number, line in enumerate(lines, start=1):
            record = _object_or_none(line)
            if record is not None and all(isinstance(record.get(key), kind) for key, kind in required.items()):
                records.append(record)
            elif line.strip():
                torn = " (the last line: a write was cut short)" if number == len(lines) else ""
                self._note(f"{name}:{number} cannot be read and is left out{torn}")
        return records

    def _note(self, sentence: str) -> None:
        if sentence not in self.unreadable:
            self.unreadable.append(sentence)


def state_of_exit_code(code: Any) -> str:
    known = STATE_OF_EXIT_CODE.get(code) if isinstance(code, int) else None
    return known or f"failed ({code})"


def kind_of(record: dict[str, Any]) -> str:
    """'eval' for a line of metrics that holds an evaluation, else 'train'."""
    return "eval" if any(key.startswith("eval/") for key in record) else "train"


def find_runs(root: str | Path) -> list[RunFolder]:
    """All runs at or below `root`, by path. A run is not searched for further runs."""
    return [RunFolder(path) for path in sorted(_run_paths(Path(root)))]


def _run_paths(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        if any(marker in files for marker in MARKERS):
            subfolders.clear()
            yield Path(folder)
        subfolders[:] = [name for name in subfolders if name not in NOT_SEARCHED and not name.startswith(".")]


def _object_or_none(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def process_lives(pid: Any, recorded_at: Any) -> bool:
    """Whether the process that wrote its pid at `recorded_at` (unix seconds) still exists on this machine.

    One that has ended and that nobody has asked for its exit code (a zombie) does not.
    """
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to someone else
    began_at = _process_start(pid)
    if _is_zombie(pid):
        return False
    # A pid is given again after a reboot or a few days: a process younger than the record is a stranger.
    return began_at is None or not isinstance(recorded_at, int | float) or began_at <= recorded_at + 2.0


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _process_start(pid: int) -> float | None:
    """Unix seconds at which a process began; None where /proc does not tell (macOS, or it has just ended)."""
    try:
        # The second field, the command, may hold spaces and brackets; the 20th after it is the start in clock ticks.
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except OSError:
        return None
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
