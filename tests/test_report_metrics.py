"""The headline of any task: which metric stands first, what it is called, which way is better, what the run counts."""

import argparse
import json

import fake_evaluations
import fake_run
import pytest
from fake_run import make_run
from test_report import page_of

from launcher.report import words
from launcher.report.facts import Goal
from launcher.report.page import changes
from launcher.verbs import runs


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [("eval/loss", "worse"), ("eval/token_f1", "better"), ("eval/mse_loss", "worse"), ("eval/rmse", "worse"),
     ("eval/mae", "worse"), ("eval/mse", "worse"), ("eval/mcc", "better"), ("eval/map", "better")],
)  # fmt: skip
def test_a_rise_is_judged_by_what_the_metric_means(metric, verdict):
    evaluations = [{"step": 0, metric: 1.0}, {"step": 9, metric: 2.0}]
    assert [change.verdict for change in changes(evaluations, Goal("eval/loss", None))] == [verdict]


def test_the_recipe_decides_the_direction_of_its_own_metric():
    evaluations = [{"step": 0, "eval/cost": 1.0, "eval/gain": 1.0}, {"step": 9, "eval/cost": 2.0, "eval/gain": 2.0}]
    found = changes(evaluations, Goal("eval/cost", greater_is_better=False))
    assert [(c.metric, c.verdict, c.best) for c in found] == [("eval/cost", "worse", 1.0), ("eval/gain", "better", 2.0)]


def test_the_metric_that_chooses_stands_first_then_the_loss_then_as_written():
    written = ["eval/f1_micro", "eval/loss", "eval/accuracy", "eval/r2"]
    evaluations = [{"step": step, **dict.fromkeys(written, float(step))} for step in (0, 1)]
    for goal, order in (
        ("eval/accuracy", ["eval/accuracy", "eval/loss", "eval/f1_micro", "eval/r2"]),
        ("eval/loss", ["eval/loss", "eval/f1_micro", "eval/accuracy", "eval/r2"]),
        ("eval/not_measured", ["eval/loss", "eval/f1_micro", "eval/accuracy", "eval/r2"]),
    ):
        assert [change.metric for change in changes(evaluations, Goal(goal, None))] == order


def test_what_stands_beside_before_is_what_was_exported(tmp_path, capsys):
    """Trained for 300 steps, of which that of 250 is the best and was taken."""
    ended = [fake_run.start(), fake_run.end(first_step=0, last_step=300, exported_step=250)]
    run = make_run(tmp_path / "run", attempts=ended)
    losses = {record["step"]: record["eval/loss"] for record in fake_run.metrics() if "eval/loss" in record}
    text = " ".join(page_of(run).text.split())
    assert f"Evaluation loss best, at step 250 {losses[0]:.3f}→{losses[250]:.3f}" in text
    assert (
        "Perplexity at step 250" in text and "Trained for 300 steps" in text and "exported: step 250, the best" in text
    )
    assert "Step 0, before training, against step 250, which was exported, on the evaluation data" in text
    assert "0 to 300" in text
    assert runs.run(argparse.Namespace(root=str(tmp_path), json=False)) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert "  300  " in row and f"{losses[0]:.3f} → {losses[250]:.3f}" in row
    as_ever = " ".join(page_of(make_run(tmp_path / "other")).text.split())
    assert "at step 300" not in as_ever and "against step 300, on the evaluation data" in as_ever


@pytest.mark.parametrize(
    ("metric", "title"),
    [("eval/accuracy", "Accuracy"), ("eval/precision_macro", "Precision macro"), ("eval/f1_micro", "F1 micro"),
     ("eval/mcc", "MCC"), ("eval/auroc", "AUROC"), ("eval/mse", "MSE"), ("eval/rmse", "RMSE"), ("eval/r2", "R²"),
     ("eval/bleu", "BLEU"), ("eval/chrf", "chrF"), ("eval/rouge1", "ROUGE-1"), ("eval/rougeL", "ROUGE-L"),
     ("eval/map", "mAP 50:95"), ("eval/map_50", "mAP 50"), ("eval/mean_iou", "Mean IoU"), ("eval/token_f1", "Token F1"),
     ("eval/exact_match", "Exact match"), ("train/peak_memory_gib", "Peak memory (GiB)"),
     ("train/images_per_second", "Images per second"), ("train/grad_norm", "Gradient norm")],
)  # fmt: skip
def test_metrics_are_called_by_the_names_of_the_field(metric, title):
    assert words.title_of(metric) == title


@pytest.mark.parametrize(
    ("unit", "shown"), [("tokens", "6.4k tokens"), ("images", "6.4k images"), ("clips", "6.4k clips")]
)
def test_what_a_run_counts_is_shown_in_its_own_unit(tmp_path, unit, shown):
    page = page_of(make_run(tmp_path / "run", metrics=fake_evaluations.lines({"eval/loss": (2.0, 1.0)}, unit)))
    assert f"4 epochs, {shown}" in page.text
    assert f"train/{unit}_per_second" in {figure["data-metric"] for figure in page.all("figure")}
    curves = next(section for section in page.all("section") if section.get("id") == "curves")
    assert json.loads(curves["data-moments"])[-1] == [200, 4.0, 6400]


def test_the_list_of_runs_counts_in_the_unit_of_each(tmp_path, capsys):
    for unit in ("tokens", "images", "clips"):
        make_run(tmp_path / unit, metrics=fake_evaluations.lines({"eval/loss": (2.0, 1.0)}, unit))
    make_run(tmp_path / "nothing", metrics=None)
    runs.run(argparse.Namespace(root=str(tmp_path), json=False))
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " 6.4k tokens " in listed["tokens"] and " 6.4k images " in listed["images"]
    assert " 6.4k clips " in listed["clips"]
    runs.run(argparse.Namespace(root=str(tmp_path), json=True))
    found = {run["path"].rpartition("/")[2]: (run["seen"], run["unit"]) for run in json.loads(capsys.readouterr().out)}
    assert found == {
        "tokens": (6400, "tokens"),
        "images": (6400, "images"),
        "clips": (6400, "clips"),
        "nothing": (None, None),
    }
