"""Six steps are three steps, an end of any kind, and three more: bit for bit on one process."""

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import tiny

from launcher import checkpoint, loop
from launcher import run as run_module
from launcher.errors import RecipeError

OPTIONS = ["training.max_steps=12", "checkpoint.save_steps=3", "evaluation.metrics=[loss]", "evaluation.eval_steps=4"]


def start(recipe: Path, folder: Path, *more: str, world: int = 1) -> tiny.Ranks:
    words = ["train", str(recipe), *OPTIONS, f"output_dir={folder}", *more]
    return tiny.Ranks(world, words, folder.with_suffix(".log"))


def wait_for_step(folder: Path, step: int) -> None:
    for _ in range(3000):
        if (folder / "metrics.jsonl").exists() and max(tiny.losses(folder), default=0) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(folder.with_suffix(".log").read_text())


def exit_codes(folder: Path) -> list[int]:
    lines = map(json.loads, (folder / "attempts.jsonl").read_text().splitlines())
    return [line["exit_code"] for line in lines if line["event"] == "end"]


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    assert start(recipe, folder).wait() == [0]
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    for metric in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"):
        assert tiny.losses(folder, metric) == tiny.losses(whole, metric)  # floats compared exactly
    for path in (whole / "export").glob("*.safetensors"):
        assert (folder / "export" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("step", [2, 5, 10])
def test_killed_and_resumed_equals_uninterrupted(recipe: Path, uninterrupted: Path, tmp_path: Path, step: int) -> None:
    """At step 2 there is no checkpoint yet: the run begins again, and says so."""
    ranks = start(recipe, tmp_path / "run")
    wait_for_step(tmp_path / "run", step)
    os.kill(ranks.processes[0].pid, signal.SIGKILL)
    assert ranks.wait() == [-signal.SIGKILL]
    assert not (tmp_path / "run" / "export").exists()

    assert start(recipe, tmp_path / "run", "--resume", "auto").wait() == [0]
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 85), (signal.SIGUSR2, 85), (signal.SIGINT, 130)])
def test_a_request_to_stop_saves_and_can_be_resumed(
    recipe: Path, uninterrupted: Path, tmp_path: Path, number: int, code: int
) -> None:
    ranks = start(recipe, tmp_path / "run")
    wait_for_step(tmp_path / "run", 4)
    os.kill(ranks.processes[0].pid, number)
    assert ranks.wait() == [code]
    stopped = max(tiny.losses(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / f"step-{stopped:08d}" / "MANIFEST.json").exists()

    assert start(recipe, tmp_path / "run", "--resume", "auto").wait() == [0]
    assert_same(tmp_path / "run", uninterrupted)
    assert exit_codes(tmp_path / "run") == [code, 0]


def test_the_mean_loss_of_a_logging_window_survives_the_end(recipe: Path, tmp_path: Path) -> None:
    """A window of five steps that an end cuts in two is logged as if it had not been."""
    words = ["logging.logging_steps=5", "training.max_steps=10", "checkpoint.save_steps=3", "evaluation.metrics=[loss]"]
    assert tiny.Ranks(
        1, ["train", str(recipe), *words, f"output_dir={tmp_path / 'whole'}"], tmp_path / "1.log"
    ).wait() == [0]
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (cut / "metrics.jsonl").unlink()
    back = str(cut / "checkpoints" / "step-00000006")
    assert tiny.Ranks(1, ["train", str(recipe), *words, "--resume", back], tmp_path / "2.log").wait() == [0]
    assert tiny.losses(cut)[10] == tiny.losses(tmp_path / "whole")[10]


def test_a_damaged_newest_checkpoint_is_put_aside(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    newest = run / "checkpoints" / "step-00000012" / "model" / "adapter_model.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-5] ^= 1
    newest.write_bytes(damaged)
    assert start(recipe, run, "--resume", "auto").wait() == [0]
    assert_same(run, uninterrupted)
    assert [path.name[:13] for path in (run / "checkpoints" / "quarantine").iterdir()] == ["step-00000012"]


def test_no_usable_checkpoint_is_88_and_nothing_is_trained(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    for state in run.glob("checkpoints/step-*/state.json"):
        state.write_text("{}")
    before = (run / "metrics.jsonl").read_bytes()
    assert start(recipe, run, "--resume", "auto").wait() == [88]
    assert (run / "metrics.jsonl").read_bytes() == before


def test_going_back_to_a_checkpoint_trains_the_rest_again(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    assert start(recipe, run, "--resume", str(run / "checkpoints" / "step-00000009")).wait() == [0]
    assert_same(run, uninterrupted)
    assert "step-00000012 is put aside" in (tmp_path / "run.log").read_text()


def test_a_run_is_never_overwritten(recipe: Path, uninterrupted: Path, tmp_path: Path, monkeypatch) -> None:
    """It is refused at once, without a look at the data."""
    monkeypatch.setattr(run_module, "prepare_stages", pytest.fail)
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    assert tiny.train(recipe, *OPTIONS, f"output_dir={uninterrupted}") == 89
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_a_folder_of_a_run_without_a_step_is_taken_again(recipe: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise RecipeError("found late")

    run = tmp_path / "run"
    words = ["training.max_steps=3", f"output_dir={run}"]
    with monkeypatch.context() as late:
        late.setattr(loop, "train", refuse)
        assert tiny.train(recipe, *words) == 89
    assert list(tiny.losses(run, "eval/loss")) == [0] and "found late" in capsys.readouterr().err
    assert tiny.train(recipe, *words, "data.eval=[]") == 0
    assert "ended before its first step; the folder is taken again" in capsys.readouterr().out
    assert exit_codes(run) == [89, 0]
    assert not tiny.losses(run, "eval/loss"), "what the first attempt measured is gone"
    assert tiny.train(recipe, *words) == 89


def test_a_folder_in_which_a_run_is_at_work_is_not_taken(recipe: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    start = {"event": "start", "attempt": 1, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    (run / "attempts.jsonl").write_text(json.dumps(start) + "\n")
    assert tiny.train(recipe, f"output_dir={run}") == 89
    assert "this folder holds a run" in capsys.readouterr().err


OTHERS = {
    "seed=7": "seed was 42 when this run was saved and is 7 now, so the order of rows would change",
    "training.global_batch_size=2": "so the order of rows would change",
    "data.max_length=32": "so the order of rows would change",
    "data.packing=true": "so the order of rows would change",
    "adapter.r=8": "so what was trained would compute something else",
    "adapter.lora_alpha=320": "adapter.lora_alpha was",
    "optimizer.name=lion": "optimizer.name was adamw when this run was saved and is lion now, so its states",
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_run_is_not_resumed(recipe: Path, uninterrupted: Path, tmp_path: Path, change: str, capsys) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    assert tiny.train(recipe, *OPTIONS, f"output_dir={run}", change, "--resume", "auto") == 89
    said = capsys.readouterr().err
    assert OTHERS[change] in said and "resume with" in said and "Traceback" not in said


def test_a_checkpoint_of_another_format_is_named(recipe: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    words = ["evaluation.metrics=[loss]", f"output_dir={tmp_path / 'run'}", "training.max_steps=3"]
    monkeypatch.setattr(checkpoint, "SCHEMA", 1)
    assert tiny.train(recipe, *words) == 0
    monkeypatch.undo()
    assert tiny.train(recipe, *words, "--resume", "auto") == 88
    assert f"written in format 1, and this launcher goes on from format {checkpoint.SCHEMA}" in capsys.readouterr().err


def test_how_an_adapter_learns_may_change_on_the_way(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    words = [*OPTIONS, f"output_dir={run}", "adapter.lora_dropout=0.5", "--resume"]
    assert tiny.train(recipe, *words, str(run / "checkpoints" / "step-00000009")) == 0


def test_other_evaluations_are_said_and_another_metric_has_a_best_of_its_own(
    recipe: Path, tmp_path: Path, capsys
) -> None:
    """A token accuracy compared with the loss before would never be the best."""
    words = [f"output_dir={tmp_path / 'run'}", "evaluation.eval_steps=1", "checkpoint.save_steps=1"]
    first = ["training.max_steps=3", "evaluation.metric_for_best_model=eval/loss"]
    assert tiny.train(recipe, *words, *first) == 0
    capsys.readouterr()
    second = ["training.max_steps=5", "evaluation.metric_for_best_model=eval/token_accuracy", "--resume", "auto"]
    assert tiny.train(recipe, *words, *second, "evaluation.metrics=[loss, token_accuracy]") == 0
    said = capsys.readouterr().out
    for note in (
        "metrics was ['loss', 'perplexity', 'token_accuracy'] until now and is ['loss', 'token_accuracy']",
        "metric_for_best_model was eval/loss until now and is eval/token_accuracy",
        "greater_is_better was False until now and is True",
    ):
        assert f"note: evaluation.{note}" in said
    assert "was the best until now; from here the best is looked for anew" in said
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000005" / "state.json").read_text())
    accuracies = tiny.losses(tmp_path / "run", "eval/token_accuracy")
    assert state["progress"]["best_value"] == max(accuracies[step] for step in (4, 5))
    assert tiny.train(recipe, *words, *second, "evaluation.metrics=[loss, token_accuracy]") == 0
    assert "note: evaluation." not in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_best_checkpoint_that_is_not_whole_is_not_exported(recipe: Path, tmp_path: Path, harm: str, capsys) -> None:
    """The first is made the best: the highest loss counts."""
    words = ["training.max_steps=3", "checkpoint.save_steps=1", "evaluation.eval_steps=1", "evaluation.metrics=[loss]"]
    words += [
        "evaluation.metric_for_best_model=eval/loss",
        "evaluation.greater_is_better=true",
        "optimizer.learning_rate=1e-2",
    ]
    run = tmp_path / "run"
    assert tiny.train(recipe, *words, f"output_dir={run}") == 0
    shutil.rmtree(run / "export")
    best = run / "checkpoints" / "step-00000001"
    if harm == "gone":
        shutil.rmtree(best)
    else:
        (best / "model" / "adapter_model.safetensors").write_bytes(bytes(1000))
    capsys.readouterr()
    assert tiny.train(recipe, *words, f"output_dir={run}", "--resume", "auto") == 88
    said = capsys.readouterr().err
    assert "the checkpoint of step 1 is gone or damaged" in said and "--step N" in said
    assert not (run / "export").exists()


def test_two_ranks_go_on_where_one_rank_stopped(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """The cursor knows no world size; across world sizes the losses are equal to rounding."""
    run = tmp_path / "run"
    one = start(recipe, run)
    wait_for_step(run, 5)
    os.kill(one.processes[0].pid, signal.SIGKILL)
    one.wait()
    assert start(recipe, run, "--resume", "auto", world=2).wait() == [0, 0]
    assert tiny.losses(run) == pytest.approx(tiny.losses(uninterrupted), rel=1e-5)
