"""Sweeps for tests: a recipe with a space, `launcher sweep` on stand-ins for its trials, in this process or in one to be killed."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
ASSETS = TESTS.parent / "recipes"
SPACE = {
    "optimizer.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "optimizer.weight_decay": {"low": 0.0, "high": 0.3},
}


def recipe(folder: Path, space: dict[str, Any] | None = None, text: str = "", **sweep: Any) -> Path:
    """A valid recipe of the embedded model and data; what is trained is up to the stand-in."""
    section = json.dumps({"space": SPACE if space is None else space, **sweep})
    path = folder / "swept.yaml"
    path.write_text(
        f"""\
task: text_classification
method: full
model: {{name_or_path: {ASSETS}/assets/python_gpt}}
data:
  train: [{{path: {ASSETS}/data/python_topics_train.csv}}]
  eval: [{{path: {ASSETS}/data/python_topics_eval.csv}}]
training: {{max_steps: 6, global_batch_size: 4, per_device_train_batch_size: 4}}
evaluation: {{eval_steps: 1, metric_for_best_model: eval/loss}}
{text}
sweep: {section}
"""
    )
    return path


def stand_in(place: Any, number: int, values: Any, nproc: int) -> list[str]:
    """In place of `launcher.sweep.trial.command`."""
    from launcher.recipe.searching import override

    words = [override(key, value) for key, value in values.items()]
    return [sys.executable, "-S", str(TESTS / "fake_trial.py"), *words, f"output_dir={place.trial(number)}"]


def main(words: list[str]) -> int:
    """`launcher sweep WORDS...` on stand-ins."""
    import launcher.sweep.trial
    from launcher.__main__ import main

    launcher.sweep.trial.command = stand_in
    return main(["sweep", *words])


@contextmanager
def started(*words: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """The same in a process group of its own, ended at the latest with the block."""
    environment = os.environ | {"FAKE_TRIAL": json.dumps(how)}
    command = [sys.executable, str(TESTS / "sweeping.py"), *words]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


def insist_on_whole(folder: Path, number: int, steps: int) -> None:
    """No trial lost, none trained twice: each has ended, and has done each of its steps once."""
    trials = found(folder)["trials"]
    assert [one["number"] for one in trials] == list(range(number))
    assert {one["state"] for one in trials} <= {"done", "pruned"}
    for one in trials:
        done = [int(line) for line in (folder / one["folder"] / "done.txt").read_text().split()]
        assert done == list(range(1, len(done) + 1)), f"trial {one['number']} did {done}"
        assert len(done) == steps or one["state"] == "pruned"
        starts = Counter(
            record["event"] for record in map(json.loads, (folder / one["folder"] / "attempts.jsonl").open())
        )
        assert starts["start"] <= 3, f"trial {one['number']} was started {starts['start']} times"
    assert len(list((folder / "trials").glob("*/done.txt"))) == number


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def begun(folder: Path) -> int:
    return len(list(folder.glob("trials/*/done.txt")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
