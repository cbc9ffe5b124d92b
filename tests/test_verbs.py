"""The verbs on a finished run, through the command line's own entry."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from launcher import loop
from launcher.__main__ import main
from launcher.report.facts import gather
from launcher.run_folder import RunFolder


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_the_run_folder_is_complete(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {
        "recipe.yaml", "plan.json", "environment.json", "metrics.jsonl", "attempts.jsonl", "samples.json", "log",
        "checkpoints", "export", "report.html",
    }  # fmt: skip
    assert (finished_run / "log" / "rank-0.log").read_text().count("plan") >= 0


def test_metrics_are_as_documented(finished_run: Path) -> None:
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/loss" in line] == [0, 3, 6]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert {"step", "epoch", "tokens", "time"} <= line.keys()
    train = next(line for line in lines if "train/loss" in line)
    for name in ("learning_rate", "grad_norm", "tokens_per_second", "peak_memory_gib"):
        assert train[f"train/{name}"] > 0
    assert tiny.losses(finished_run, "eval/loss")[6] < tiny.losses(finished_run, "eval/loss")[0]


def test_check_says_what_training_would(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ask(capsys, "check", str(recipe))
    assert "22 rows read" in said and "6 steps of 4 rows" in said and "trained on" not in said
    train = recipe.parent / "train.jsonl"
    assert f"note: {train} is trained on" in ask(capsys, "check", str(recipe), f"data.eval.0.path={train}")


def test_plan_for_another_world(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(ask(capsys, "plan", str(recipe), "--world", "2x2", "--json"))["values"]
    assert values["world_size"]["value"] == 4 and values["gradient_accumulation_steps"]["value"] == 1
    assert values["precision"]["value"] == "bf16" and values["strategy"]["value"] == "ddp"
    assert values["global_batch_size"]["origin"].endswith("tiny.yaml:9:12")
    assert main(["plan", str(recipe), "--world", "3x1"]) == 89
    assert "world sizes that fit: 1, 2, 4" in capsys.readouterr().err


def test_evaluate_equals_the_run(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = json.loads(ask(capsys, "evaluate", str(finished_run), "--json"))
    assert measured["eval/loss"] == pytest.approx(tiny.losses(finished_run, "eval/loss")[6], rel=1e-6)
    earlier = json.loads(ask(capsys, "evaluate", str(finished_run), "--step", "4", "--json"))
    assert earlier["step"] == 4 and earlier["eval/loss"] != measured["eval/loss"]


def test_generate_answers_each_prompt(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ask(capsys, "generate", str(finished_run), "--prompt", "the cat", "--prompt", "the dog", "--base")
    assert said.count("tuned:") == 2 and said.index("> the cat") < said.index("> the dog")


def test_export_again_merged(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    ask(capsys, "export", str(run), "--merge")
    assert (run / "export" / "model.safetensors").exists() and not (run / "export" / "adapter_config.json").exists()
    assert json.loads((run / "proof" / "verdict.json").read_text())["ok"]
    assert "eval/loss" in (run / "export" / "README.md").read_text()


def test_a_run_that_needed_a_gpu_is_taken_up_without_one(finished_run: Path, tmp_path: Path, capsys) -> None:
    """And the model card still says how it was trained."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["optimizer"] = {"name": "paged_adamw"}
    recipe["training"] |= {"precision": "tf32", "gradient_checkpointing": True, "activation_offloading": True}
    recipe["distributed"] = {"strategy": "none"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["check", str(run / "recipe.yaml")]) == 89
    assert "there is no GPU" in capsys.readouterr().err
    ask(capsys, "export", str(run))
    measured = json.loads(ask(capsys, "evaluate", str(run), "--json"))
    assert measured["eval/loss"] == pytest.approx(tiny.losses(run, "eval/loss")[6], rel=1e-6)
    card = (run / "export" / "README.md").read_text()
    assert all(f"{key}\n" in card for key in ("name: paged_adamw", "precision: tf32", "activation_offloading: true"))


def test_verbs_on_what_is_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("evaluate", "export", "report"):
        assert main([verb, str(tmp_path)]) == 89
        assert "Traceback" not in capsys.readouterr().err


def test_schema_knows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(ask(capsys, "schema"))
    assert {"model", "data", "training", "optimizer", "adapter"} <= schema["properties"].keys()
    shipped = Path(__file__).parent.parent / "recipes" / "recipe.schema.json"
    assert json.loads(shipped.read_text()) == schema, "run `launcher schema > recipes/recipe.schema.json`"


def test_a_copied_recipe_stands_on_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gpt_lora" in ask(capsys, "recipes")
    ask(capsys, "recipes", "copy", "gpt_lora", str(tmp_path))
    said = ask(capsys, "check", str(tmp_path / "gpt_lora.yaml"))
    assert "fine" in said
    assert main(["recipes", "copy", "gpt_lora", str(tmp_path)]) == 89
    assert main(["recipes", "copy", "gpt_loar", str(tmp_path)]) == 89
    assert "did you mean gpt_lora" in capsys.readouterr().err


def test_the_best_checkpoint_is_exported(recipe: Path, tmp_path: Path) -> None:
    """A learning rate that rises again makes a later state worse than an earlier one."""
    run = tmp_path / "run"
    words = ["evaluation.eval_steps=2", "evaluation.metric_for_best_model=eval/loss", "training.max_steps=16"]
    words += [
        "optimizer.learning_rate=0.5",
        "scheduler.name=linear",
        "scheduler.warmup_steps=15",
        "checkpoint.save_total_limit=2",
    ]
    assert tiny.train(recipe, *words, f"output_dir={run}") == 0
    evaluated = {step: loss for step, loss in tiny.losses(run, "eval/loss").items() if step > 0}
    best = min(evaluated, key=evaluated.get)
    assert best < 16, "the test needs a best state that is not the last"
    exported = (run / "export" / "adapter_model.safetensors").read_bytes()
    assert exported == (run / "checkpoints" / f"step-{best:08d}" / "model" / "adapter_model.safetensors").read_bytes()
    facts = gather(RunFolder(run))
    assert (facts.step, facts.exported_step, facts.attempts[-1].last_step, facts.best.step) == (16, best, 16, best)
    assert (
        facts.seen == json.loads((run / "checkpoints" / "step-00000016" / "state.json").read_text())["progress"]["seen"]
    )
    assert f"for {best} steps" in (run / "export" / "README.md").read_text()


def test_early_stopping_ends_the_run(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["evaluation.eval_steps=1", "evaluation.metric_for_best_model=eval/loss", "training.max_steps=30"]
    words += ["evaluation.early_stopping_patience=2", "optimizer.learning_rate=1.0", "scheduler.name=constant"]
    assert tiny.train(recipe, *words, f"output_dir={run}") == 0
    steps = tiny.losses(run)
    assert max(steps) < 30


def test_what_could_not_be_measured_does_not_end_the_run(recipe: Path, tmp_path: Path, monkeypatch) -> None:
    """Nor does it count as the best: an area under a curve while the data has one class, for example."""
    examined = loop.examine

    def without(run: Any) -> Any:
        verdict = examined(run)
        return replace(verdict, metrics={}) if 0 < run.progress.step < 3 else verdict

    monkeypatch.setattr(loop, "examine", without)
    run = tmp_path / "run"
    words = ["evaluation.eval_steps=1", "evaluation.metric_for_best_model=eval/loss", "training.max_steps=4"]
    words += ["evaluation.early_stopping_patience=1", "optimizer.learning_rate=1e-3"]
    assert tiny.train(recipe, *words, f"output_dir={run}") == 0
    assert max(tiny.losses(run)) == 4


def test_what_a_killed_export_left_is_cleared(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / ".export-0badf00d").mkdir()
    assert main(["export", str(run)]) == 0
    assert not list(run.glob(".export-*"))
