"""Stands in for a trial of a sweep: runs no model, but leaves what a run leaves, saves itself and goes on as one does.

Its steps are one file, `done.txt`: a line of it is a step that was done and the checkpoint after it in one, so that a step that
is done twice is seen. `FAKE_TRIAL`: JSON of `steps`, `seconds` a step, `fail_above` a learning rate.
"""

import json
import math
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any


def loss_of(values: dict[str, Any], step: int) -> float:
    """Least at a learning rate of 3e-4 and a decay of 0.1; falls with each step."""
    far = (math.log10(values["optimizer.learning_rate"]) - math.log10(3e-4)) ** 2
    return 1.0 + far + abs(values.get("optimizer.weight_decay", 0.1) - 0.1) + 2.0 / step


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words if "=" in word)
    values = {key: json.loads(text) for key, text in given.items() if key != "output_dir"}
    folder, how = Path(given["output_dir"]), json.loads(os.environ.get("FAKE_TRIAL", "{}"))
    folder.mkdir(parents=True, exist_ok=True)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    first = len(_lines(folder / "done.txt"))
    common = {"attempt": 1 + sum('"start"' in line for line in _lines(folder / "attempts.jsonl"))}
    common |= {"host": socket.gethostname(), "pid": os.getpid(), "first_step": first, "time": time.time()}
    _add(folder / "attempts.jsonl", json.dumps(common | {"event": "start"}))
    code, error = _train(folder, values, first, how, stop)
    last = len(_lines(folder / "done.txt"))
    ends = {
        "event": "end",
        "time": time.time(),
        "exit_code": code,
        "error": error,
        "last_step": last,
        "exported_step": last,
    }
    _add(folder / "attempts.jsonl", json.dumps(common | ends))
    return code


def _train(folder: Path, values: dict[str, Any], first: int, how: dict[str, Any], stop: list[int]) -> tuple[int, Any]:
    if values["optimizer.learning_rate"] > how.get("fail_above", 1e9):
        return 87, "NonFiniteError: the loss is nan at step 1"
    for step in range(first + 1, how.get("steps", 6) + 1):
        if stop:
            return 85, "Preempted: asked to stop"
        time.sleep(how.get("seconds", 0.0))
        _add(folder / "metrics.jsonl", json.dumps({"step": step, "eval/loss": loss_of(values, step)}))
        _add(folder / "done.txt", str(step))
    return 0, None


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _add(path: Path, line: str) -> None:
    """In one write, which a kill leaves whole or out."""
    with path.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
