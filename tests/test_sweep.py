"""`launcher sweep`: which trials there are, what becomes of each, and what goes on after a stop or a kill."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import fake_trial
import pytest
import sweeping
from sweeping import begun, found, insist_on_whole, started, wait_for
from sweeping import recipe as swept

from launcher.errors import RecipeErrors
from launcher.recipe import load


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`launcher sweep` in this process on stand-ins for its trials: sweep("words"...) -> exit code."""
    monkeypatch.setattr("launcher.sweep.trial.command", sweeping.stand_in)
    monkeypatch.setattr("launcher.sweep.crew.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("launcher.sweep.page.importance", lambda *_: {})  # a quarter of a second, after each trial

    def run(path: Path, *words: str, folder: str = "s", **how: Any) -> int:
        from launcher.__main__ import main

        monkeypatch.setenv("FAKE_TRIAL", json.dumps(how))
        return main(["sweep", str(path), *words, f"output_dir={tmp_path / folder}"])

    return run


def trials(folder: Path) -> list[dict[str, Any]]:
    """What a sweep came to, without times."""
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found(folder)["trials"]]


def test_the_best_trial_is_that_of_the_least_loss(sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sweep(swept(tmp_path, trials=8), steps=2) == 0
    result = found(tmp_path / "s")
    slow = {one["number"]: fake_trial.loss_of(one["values"], 2) for one in result["trials"]}
    assert {one["number"]: one["value"] for one in result["trials"]} == slow
    best = min(slow, key=lambda number: slow[number])
    assert result["best"]["number"] == best
    kept = load(tmp_path / "s" / "best.yaml")
    assert kept.optimizer.learning_rate == result["best"]["values"]["optimizer.learning_rate"]
    assert kept.sweep is None and kept.output_dir is None
    assert (
        (tmp_path / "s" / "best.yaml")
        .read_text()
        .startswith(f"# Trial {best} of the sweep swept, the best: eval/loss ")
    )
    assert f"best: trial {best}" in capsys.readouterr().out


def test_greater_is_better_for_accuracy(sweep: Any, tmp_path: Path) -> None:
    """The stand-in measures a loss alone, so the direction is turned by hand."""
    assert sweep(swept(tmp_path, trials=4, metric="eval/loss", greater_is_better=True, sampler="random"), steps=1) == 89
    path = swept(tmp_path, trials=4, sampler="random", greater_is_better=True)
    path.write_text(path.read_text().replace(", metric_for_best_model: eval/loss", ""))
    assert sweep(path, steps=1) == 0
    result = found(tmp_path / "s")
    assert result["best"]["value"] == max(one["value"] for one in result["trials"])


def test_tpe_learns_where_the_loss_is_low(sweep: Any, tmp_path: Path) -> None:
    assert sweep(swept(tmp_path, trials=16, startup_trials=6), "--workers=2", steps=1) == 0
    values = [one["value"] for one in found(tmp_path / "s")["trials"]]
    assert sorted(values[6:])[5] < sorted(values[:6])[3]


@pytest.mark.parametrize("sampler", [{"startup_trials": 3}, {"sampler": "random"}], ids=["tpe", "random"])
def test_two_sweeps_of_a_seed_have_the_same_trials(sampler: dict[str, Any], sweep: Any, tmp_path: Path) -> None:
    path = swept(tmp_path, trials=5, pruner="median", pruner_startup_trials=2, **sampler)
    for name in ("a", "b"):
        assert sweep(path, folder=name, steps=3) == 0
    assert trials(tmp_path / "a") == trials(tmp_path / "b")
    assert sweep(path, "sweep.seed=7", "sweep.trials=1", folder="c", steps=3) == 0
    assert trials(tmp_path / "a")[0]["values"] != trials(tmp_path / "c")[0]["values"]


def test_a_grid_tries_each_of_its_points_once(sweep: Any, tmp_path: Path) -> None:
    space = {
        "optimizer.learning_rate": {"values": [1e-4, 1e-3]},
        "data.max_length": {"low": 32, "high": 64, "step": 16},
        "optimizer.betas": {"values": [[0.9, 0.999], [0.8, 0.99]]},
    }
    assert sweep(swept(tmp_path, space, sampler="grid"), "--workers=2", steps=1) == 0
    tried = [json.dumps(list(one["values"].values())) for one in found(tmp_path / "s")["trials"]]
    points = [
        [rate, length, betas]
        for rate in (1e-4, 1e-3)
        for length in (32, 48, 64)
        for betas in ([0.9, 0.999], [0.8, 0.99])
    ]
    assert tried == [json.dumps(point) for point in points]


def test_a_trial_that_fails_is_written_down_and_the_others_go_on(sweep: Any, tmp_path: Path) -> None:
    space = {"optimizer.learning_rate": {"values": [1e-4, 1e-2, 1e-3]}}
    assert sweep(swept(tmp_path, space, sampler="grid"), steps=1, fail_above=5e-3) == 0
    first, second, third = found(tmp_path / "s")["trials"]
    assert (first["state"], second["state"], third["state"]) == ("done", "failed", "done")
    assert second["exit_code"] == 87 and second["error"] == "NonFiniteError: the loss is nan at step 1"


def test_where_every_trial_fails_the_sweep_fails(sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sweep(swept(tmp_path, trials=2), steps=1, fail_above=0.0) == 92
    assert "no trial came to its end" in capsys.readouterr().err


def test_values_that_contradict_each_other_fail_their_trial_alone(sweep: Any, tmp_path: Path) -> None:
    space = {
        "optimizer.learning_rate": {"values": [1e-4]},
        "training.max_steps": {"values": [6, 20]},
        "scheduler.warmup_steps": {"values": [0, 5]},
    }
    path = swept(tmp_path, space, sampler="grid", text="scheduler: {decay_steps: 4, name: wsd}")
    assert sweep(path, "training.max_steps=20", steps=1) == 0
    states = {tuple(one["values"].values())[1:]: one["state"] for one in found(tmp_path / "s")["trials"]}
    assert states == {(6, 0): "done", (6, 5): "failed", (20, 0): "done", (20, 5): "done"}
    assert "warmup and decay take 9 steps" in next(
        one["error"] for one in found(tmp_path / "s")["trials"] if one["state"] == "failed"
    )


def test_the_median_ends_a_trial_that_is_worse_and_it_saves_itself(sweep: Any, tmp_path: Path) -> None:
    space = {"optimizer.learning_rate": {"values": [3e-4, 4e-4, 2e-4, 9e-3, 3.1e-4]}}
    path = swept(tmp_path, space, sampler="grid", pruner="median", pruner_startup_trials=3, pruner_warmup_steps=2)
    assert sweep(path, steps=30, seconds=0.02) == 0
    states = {one["number"]: (one["state"], one["step"]) for one in found(tmp_path / "s")["trials"]}
    assert states == {0: ("done", 30), 1: ("done", 30), 2: ("done", 30), 3: ("pruned", 2), 4: ("done", 30)}
    ends = [json.loads(line) for line in (tmp_path / "s" / "trials" / "0003" / "attempts.jsonl").open()]
    assert ends[-1]["exit_code"] == 85 and ends[-1]["last_step"] < 30


def test_asha_lets_few_trials_go_on(sweep: Any, tmp_path: Path) -> None:
    path = swept(tmp_path, trials=9, sampler="random", pruner="asha", pruner_warmup_steps=1, reduction_factor=3)
    assert sweep(path, steps=9) == 0
    states = [one["state"] for one in found(tmp_path / "s")["trials"]]
    assert states.count("pruned") >= 5 and states.count("done") >= 1


def test_values_that_were_tried_are_not_trained_again(
    sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    space = {"optimizer.learning_rate": {"values": [1e-4, 1e-3]}}
    assert sweep(swept(tmp_path, space, trials=5, sampler="random"), steps=1) == 0
    result = found(tmp_path / "s")["trials"]
    twins = [one for one in result if one["same_as"] is not None]
    assert len(twins) == 3 and len(list((tmp_path / "s" / "trials").glob("*/done.txt"))) == 2
    for one in twins:
        assert one["value"] == result[one["same_as"]]["value"] and one["values"] == result[one["same_as"]]["values"]
    assert "has the values of trial" in capsys.readouterr().out


# --- stops, kills, resumes --------------------------------------------------------------------------------------------


def ended(folder: Path) -> int:
    return sum(one["state"] != "open" for one in found(folder)["trials"]) if (folder / "sweep.json").exists() else 0


def test_twelve_trials_of_two_workers_killed_twice_are_all_there_once(tmp_path: Path, sweep: Any) -> None:
    path, folder = (
        swept(tmp_path, trials=12, pruner="median", pruner_startup_trials=3, startup_trials=4),
        tmp_path / "s",
    )
    words = (str(path), f"output_dir={folder}", "--workers=2", "--resume", "auto")
    for so_far in (2, 6):
        with started(*words, steps=6, seconds=0.05) as process:
            wait_for(lambda: begun(folder) > so_far + 1)  # noqa: B023
            os.killpg(process.pid, signal.SIGKILL)
        assert ended(folder) < 12
    assert sweep(path, "--workers=2", "--resume", "auto", steps=6) == 0
    insist_on_whole(folder, 12, steps=6)


def test_a_killed_sweep_comes_to_what_an_uninterrupted_one_does(tmp_path: Path, sweep: Any) -> None:
    path = swept(tmp_path, trials=6, pruner="median", pruner_startup_trials=2, startup_trials=3)
    assert sweep(path, folder="whole", steps=4) == 0
    folder = tmp_path / "killed"
    with started(str(path), f"output_dir={folder}", steps=4, seconds=0.05) as process:
        wait_for(lambda: begun(folder) > 3)
        os.killpg(process.pid, signal.SIGKILL)
    assert sweep(path, "--resume", "auto", folder="killed", steps=4) == 0
    assert trials(folder) == trials(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 85), (signal.SIGINT, 130)])
def test_a_stop_lets_trials_save_themselves_and_the_next_start_goes_on(
    number: int, code: int, tmp_path: Path, sweep: Any
) -> None:
    path, folder = swept(tmp_path, trials=3), tmp_path / "s"
    with started(str(path), f"output_dir={folder}", "--workers=2", steps=30, seconds=0.1) as process:
        wait_for(lambda: begun(folder) == 2)
        process.send_signal(number)
        assert process.wait(20) == code
        said = process.stdout.read()
    assert "stopped; --resume auto goes on with it" in said and "stopping: trials save themselves first (0, 1)" in said
    assert all(one["state"] == "open" and one["seconds"] > 0 for one in found(folder)["trials"])
    ends = [
        json.loads(line)["exit_code"]
        for one in folder.glob("trials/*/attempts.jsonl")
        for line in one.open()
        if '"end"' in line
    ]
    assert ends == [85, 85]
    assert sweep(path, "--resume", str(folder), "sweep.workers=2", steps=30) == 0
    insist_on_whole(folder, 3, steps=30)


def test_two_sweeps_at_once_in_one_folder_share_its_trials(tmp_path: Path) -> None:
    path, folder = swept(tmp_path, trials=6), tmp_path / "s"
    words = (str(path), f"output_dir={folder}", "--resume", "auto")
    with started(*words, steps=3, seconds=0.05) as one, started(*words, steps=3, seconds=0.05) as other:
        assert one.wait(60) == 0 and other.wait(60) == 0, one.stdout.read() + other.stdout.read()
        said = [one.stdout.read(), other.stdout.read()]
    insist_on_whole(folder, 6, steps=3)
    assert all("trial" in text for text in said) and sum("begins" in text for text in said) == 1


def test_another_recipe_does_not_go_on_with_a_sweep(tmp_path: Path, sweep: Any, capsys: pytest.CaptureFixture) -> None:
    path = swept(tmp_path, trials=2)
    assert sweep(path, steps=1) == 0
    assert sweep(path, steps=1) == 89
    assert "this folder holds a sweep; go on with --resume auto" in capsys.readouterr().err
    assert (
        sweep(path, "optimizer.weight_decay=0.5", "sweep.space={data.max_length: {values: [32]}}", "--resume", "auto")
        == 89
    )
    said = capsys.readouterr().err
    assert "optimizer: null there" in said and 'sweep.space.data.max_length: null there, {"values": [32]' in said
    assert sweep(path, "sweep.trials=4", "--resume", "auto", steps=1) == 0
    assert len(found(tmp_path / "s")["trials"]) == 4
    assert sweep(path, "sweep.trials=3", "--resume", "auto", steps=1) == 0
    assert "WARNING: sweep.trials is 3, and 4 are there already" in capsys.readouterr().out


def test_what_was_taken_out_of_a_sweeps_folder_is_missed(
    tmp_path: Path, sweep: Any, capsys: pytest.CaptureFixture
) -> None:
    path, folder = swept(tmp_path, trials=2), tmp_path / "s"
    assert sweep(path, steps=1) == 0
    card = (folder / "study.json").read_bytes()
    shutil.rmtree(folder / found(folder)["best"]["folder"])
    assert sweep(path, "--resume", "auto", steps=1) == 0
    assert "is gone; to have its model again, train its recipe" in capsys.readouterr().out
    (folder / "study.json").unlink()
    assert sweep(path, "--resume", "auto", steps=1) == 88
    assert "a sweep of this folder, whose study.json is gone" in capsys.readouterr().err
    assert not (folder / "study.json").exists()
    (folder / "study.json").write_bytes(card)
    (folder / "sweep.db").write_text("no database")
    assert sweep(path, "--resume", "auto", steps=1) == 90
    assert "bring the file sweep.db back" in capsys.readouterr().err


def test_a_folder_that_is_no_sweeps_is_left_alone(tmp_path: Path, sweep: Any, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "letter.txt").write_text("mine")
    for words in ([], ["--resume", "auto"]):
        assert sweep(swept(tmp_path, trials=2), *words) == 89
        assert "neither empty nor a sweep's folder" in capsys.readouterr().err
    assert [one.name for one in (tmp_path / "s").iterdir()] == ["letter.txt"]


# --- the recipe -------------------------------------------------------------------------------------------------------


def problems(folder: Path, space: dict[str, Any] | None = None, text: str = "", **sweep: Any) -> list[str]:
    path = swept(folder, space, text, **sweep)
    with pytest.raises(RecipeErrors) as caught:
        load(path)
    assert caught.value.exit_code == 89
    return [problem.removeprefix(f"{path}:").partition(" ")[2] for problem in caught.value.problems]


def test_each_key_and_value_of_the_space_is_one_that_the_recipe_takes(tmp_path: Path) -> None:
    space = {
        "optimizer.lerning_rate": {"low": 1e-5, "high": 1e-2},
        "optimizer.weight_decay": {"values": [0.0, "much"]},
        "training.max_steps": {"low": 0, "high": 4},
        "data.train.3.path": {"values": ["x.csv"]},
        "model.name_or_path": {"values": ["./nowhere/model"]},
    }
    assert (
        problems(tmp_path, space)
        == [
            "sweep.space: optimizer.lerning_rate is not an option of adamw; did you mean learning_rate?",
            'sweep.space: optimizer.weight_decay: must be a number of at least 0, not "much"',
            "sweep.space: training.max_steps: must be a whole number of at least 1, or null, not 0",
            "sweep.space: data.train: is a list of 1, counted from 0; it has no item 3",
            *problems(tmp_path, {"model.name_or_path": {"values": ["./nowhere/model"]}}),
        ]
        or "there is no folder" in problems(tmp_path, space)[-1]
    )


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"values": []}, "lists no value to try"),
        ({"values": [1, 2, 1]}, "lists 1 twice"),
        ({"low": 1, "high": 1}, "low: 1 is not below high: 1"),
        ({"low": 0, "high": 1, "log": True}, "low: 0 has no logarithm"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "steps of one size are none of the logarithm"),
        ({"low": 1, "high": 3, "step": 4}, "step: 4 does not lead from 1 towards 3"),
        ({"low": 1}, "says not what is tried"),
        ({"low": 1, "hgih": 2}, "hgih is not an option of a dimension; did you mean high?"),
        ({"values": [1], "low": 1}, "has values, and a range beside them"),
    ],
)
def test_a_dimension_that_says_nothing_is_refused(dimension: dict[str, Any], said: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {"data.max_length": dimension})
    assert problem.replace(".hgih", ": hgih").startswith(f"sweep.space.data.max_length: {said}")


@pytest.mark.parametrize(
    ("space", "sweep", "said"),
    [
        ({}, {}, "sweep.space: names no key to try"),
        ({"output_dir": {"values": ["a"]}}, {}, "sweep.space.output_dir: is the sweep's folder"),
        ({"evaluation.eval_steps": {"values": [1]}}, {}, "sweep.space.evaluation.eval_steps: says what is measured"),
        (None, {"metric": "eval/f2"}, "sweep.metric: eval/f2 is not measured"),
        (None, {"sampler": "grid"}, "sweep.space.optimizer.learning_rate: a grid needs values"),
        (None, {"sampler": "random", "startup_trials": 3}, "sweep.startup_trials: is for sampler: tpe"),
        (None, {"reduction_factor": 3}, "sweep.reduction_factor: is for pruner: asha"),
        (None, {"storage": "mysql://x"}, "sweep.storage: write postgresql://user@host/database"),
        (None, {"prunr": "asha"}, "sweep.prunr is not an option of sweep; did you mean pruner?"),
    ],
)
def test_contradictions_of_a_sweep_are_located(space: Any, sweep: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert problems(tmp_path, space, **sweep)[0].startswith(said)


def test_paths_to_try_are_looked_for_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "other.csv").write_text("text,label\na,b\n")
    monkeypatch.chdir(tmp_path)
    path = swept(tmp_path / "there", {"data.train.0.path": {"values": ["other.csv"]}})
    assert load(path).sweep.space["data.train.0.path"].values == (str(tmp_path / "there" / "other.csv"),)


def test_a_storage_that_does_not_answer_for_a_while_ends_no_trial(
    tmp_path: Path, sweep: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from optuna.exceptions import StorageInternalError

    from launcher.sweep.store import Store

    path = swept(tmp_path, trials=4, startup_trials=2, pruner="median", pruner_startup_trials=1)
    assert sweep(path, folder="calm", steps=3) == 0
    calls = dict.fromkeys(("report", "set", "finish", "claim", "confirm"), 0)

    def unsteady(name: str) -> Any:
        steady = getattr(Store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            if calls[name] % 3 == 2:
                raise StorageInternalError("gone")
            return steady(*args, **kwargs)

        return call

    for name in calls:
        monkeypatch.setattr(Store, name, unsteady(name))
    assert sweep(path, folder="rough", steps=3) == 0
    assert "does not answer (StorageInternalError); trials go on meanwhile" in capsys.readouterr().out
    assert trials(tmp_path / "rough") == trials(tmp_path / "calm")
    monkeypatch.setattr("launcher.sweep.crew.BEAR_SECONDS", 0.2)
    monkeypatch.setattr(Store, "finish", lambda *_: (_ for _ in ()).throw(StorageInternalError("gone")))
    assert sweep(path, folder="lost", steps=3) == 90


def test_real_trials_and_a_best_recipe_that_comes_to_its_metric(recipe: Path, tmp_path: Path) -> None:
    """Two trainings in processes of their own; the best one again, in this process."""
    import tiny

    from launcher.__main__ import main
    from launcher.run_folder import RunFolder

    space = "sweep={space: {optimizer.learning_rate: {values: [1.0e-3, 1.0e-2]}}, sampler: grid, workers: 2}"
    words = ["evaluation.eval_steps=3", "evaluation.metric_for_best_model=eval/loss", "training.max_steps=3"]
    assert main(["sweep", str(recipe), space, *words, f"output_dir={tmp_path / 's'}"]) == 0
    best = found(tmp_path / "s")["best"]
    assert tiny.train(tmp_path / "s" / "best.yaml", f"output_dir={tmp_path / 'again'}") == 0
    losses = [
        one["eval/loss"]
        for one in RunFolder(tmp_path / "again").metrics()
        if "eval/loss" in one and one["step"] == best["step"]
    ]
    assert losses == [pytest.approx(best["value"], rel=1e-6)]
    other = next(one for one in found(tmp_path / "s")["trials"] if one["number"] != best["number"])
    assert other["value"] > best["value"] * 1.0001


def test_a_recipe_with_a_sweep_is_trained_with_its_own_values(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import tiny

    space = "sweep={space: {optimizer.learning_rate: {values: [1.0e-3, 1.0e-2]}}, sampler: grid}"
    assert tiny.train(recipe, space, "training.max_steps=3", f"output_dir={tmp_path / 'run'}") == 0
    assert "note: the recipe's own values are trained" in capsys.readouterr().out
    kept = load(tmp_path / "run" / "recipe.yaml")
    assert kept.sweep is None and kept.optimizer.learning_rate == 1e-2
