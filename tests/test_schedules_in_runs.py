"""The learning rates that a run logs, before and after a resume, are those of the schedule as the recipe has it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from launcher import loop
from launcher.errors import RecipeErrors
from launcher.evaluate import Verdict
from launcher.recipe import load
from launcher.run import Run
from launcher.schedules import SCHEDULES, Options, factor

# Keys of each in a recipe, and what they mean in a run of seven steps, two of them warmup.
KEYS = {
    "constant": ("", Options()),
    "linear": ("min_lr_ratio: 0.1", Options(0.1)),
    "cosine": ("min_lr_ratio: 0.1", Options(0.1)),
    "cosine_with_restarts": ("num_cycles: 3", Options(num_cycles=3)),
    "polynomial": ("power: 3.0", Options(power=3.0)),
    "exponential": ("min_lr_ratio: 0.1", Options(0.1)),
    "step": ("step_size: 2, gamma: 0.5", Options(step_size=2, gamma=0.5)),
    "inverse_sqrt": ("timescale: 3", Options(timescale=3)),
    "one_cycle": ("min_lr_ratio: 0.01", Options(0.01)),
    "wsd": ("decay_steps: 0.4", Options(decay_steps=3)),
}
STEPS, WARMUP, RATE = 7, 2, 1e-2


def test_no_schedule_is_left_out() -> None:
    assert KEYS.keys() | {"reduce_on_plateau"} == SCHEDULES.keys()


@pytest.mark.parametrize("name", KEYS)
def test_logged_rates_are_those_of_the_formula(recipe: Path, tmp_path: Path, name: str) -> None:
    """Accumulation 4 and 1: a micro-batch is no step. Resumed at step 4, where the second half is trained again."""
    keys, options = KEYS[name]
    scheduler = f"scheduler={{name: {name}, warmup_steps: {WARMUP}{keys and ', '}{keys}}}"
    common = [scheduler, f"training.max_steps={STEPS}", "data.eval=[]", "evaluation=null", "checkpoint.save_steps=4"]
    expected = {step + 1: RATE * factor(name, step, STEPS, WARMUP, options) for step in range(STEPS)}
    folder = tmp_path / "run"
    words = [*common, f"output_dir={folder}"]
    assert tiny.train(recipe, *words) == 0
    assert tiny.losses(folder, "train/learning_rate") == expected
    shutil.rmtree(folder / "checkpoints" / f"step-{STEPS:08d}")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 4))
    assert tiny.train(recipe, *words, "--resume", "auto", "training.per_device_train_batch_size=4") == 0
    assert tiny.losses(folder, "train/learning_rate") == expected


def test_a_plateau_lowers_the_rate_as_pytorch_would_before_and_after_a_resume(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses of eight evaluations are given, that before the first step among them."""
    given = [5.0, 4.0, 4.0, 3.9998, 4.1, 4.0, 3.0, 3.5]
    evaluate = loop.examine

    def examine(run: Run) -> Verdict:
        return replace(evaluate(run), metrics={"eval/loss": given[run.progress.step]})

    monkeypatch.setattr(loop, "examine", examine)
    folder = tmp_path / "run"
    words = ["scheduler={name: reduce_on_plateau, warmup_steps: 0, gamma: 0.5, patience: 1}", "training.max_steps=7"]
    words += ["evaluation={eval_steps: 1, metrics: [loss]}", "checkpoint.save_steps=4", f"output_dir={folder}"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    expected = {}
    for step, loss in enumerate(given[:7], 1):
        theirs.step(loss)
        expected[step] = optimizer.param_groups[0]["lr"]
    assert len(set(expected.values())) == 3
    assert tiny.train(recipe, *words) == 0
    assert tiny.losses(folder, "train/learning_rate") == pytest.approx(expected)
    shutil.rmtree(folder / "checkpoints" / f"step-{STEPS:08d}")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 4))
    assert tiny.train(recipe, *words, "--resume", "auto") == 0
    assert tiny.losses(folder, "train/learning_rate") == pytest.approx(expected)


def test_a_plateau_needs_evaluations(recipe: Path) -> None:
    for lacking in ("data.eval=[]", "evaluation.eval_steps=null"):
        with pytest.raises(RecipeErrors, match="reduce_on_plateau follows evaluations; give data.eval"):
            load(recipe, ["scheduler.name=reduce_on_plateau", "evaluation=null", lacking])
