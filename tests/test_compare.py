"""Runs side by side: what differs, what they came to, and folders that are no runs."""

import json
import re
from pathlib import Path
from typing import Any

import fake_run
import pytest
from fake_run import end, make_run, start

from launcher.__main__ import main


def line(said: str, name: str) -> list[str]:
    """The cells of a row, without its name."""
    (found,) = [row for row in said.splitlines() if row.startswith(name + " ")]
    return re.split(r"\s{2,}", found)[1:]


def evaluations(*losses: float) -> list[dict[str, Any]]:
    return [
        {"step": 10 * place, "tokens": 100 * place, "eval/loss": loss, "eval/f1": 1 - loss}
        for place, loss in enumerate(losses)
    ]


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """A run that is done, and one with another learning rate that ran out of memory."""
    plan = {"values": {"parameters": {"value": 4000}, "trainable_parameters": {"value": 40}}}
    train = {
        "step": 20,
        "tokens": 200,
        "train/loss": 0.4,
        "train/tokens_per_second": 50.0,
        "train/peak_memory_gib": 1.5,
    }
    make_run(
        tmp_path / "a", metrics=[*evaluations(0.9, 0.3, 0.5), train], plan=plan, attempts=[start(), end(exit_code=0)]
    )
    (tmp_path / "a" / "export").mkdir()
    (tmp_path / "a" / "export" / "model.safetensors").write_bytes(b"x" * 2**20)
    failed = {**end(exit_code=91), "error": "OutOfMemoryProblem: too much"}
    recipe = fake_run.RECIPE.replace("2.0e-4", "5.0e-4").replace("name: gpt_lora", "name: other")
    make_run(tmp_path / "b", metrics=evaluations(0.9, 0.4), plan=None, attempts=[start(), failed], recipe=recipe)
    return [str(tmp_path / name) for name in "ab"]


def test_a_table_of_what_differs_and_what_came_of_it(two: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", *two]) == 0
    said = capsys.readouterr().out
    assert " 1  a\n 2  b: OutOfMemoryProblem: too much\n" in said
    recipes, results = said.split("results")
    assert recipes.count("learning_rate") == 1 and "gpt_lora" not in recipes  # the only difference, but for the name
    assert line(recipes, "optimizer.learning_rate") == ["0.0002", "0.0005"]
    assert line(results, "state") == ["done", "failed (91)"]
    assert line(results, "eval/loss last") == ["0.5000", "0.4000 *"]
    assert line(results, "eval/loss best") == ["0.3000 at 10 *", "0.4000 at 10"]
    assert line(results, "eval/f1 best") == ["0.7000 at 10 *", "0.6000 at 10"]
    assert line(results, "peak memory") == ["1.50 GiB", "–"]
    assert line(results, "trained parameters") == ["40", "–"]
    assert line(results, "export") == ["1 MiB", "–"]
    assert line(results, "per second") == ["50 tokens", "–"]


def test_json_has_full_precision_and_null_for_what_is_not_there(two: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", *two, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["runs"]
    assert first["metrics"]["eval/loss"] == {
        "last": 0.5,
        "last_step": 20,
        "best": 0.3,
        "best_step": 10,
        "lower_is_better": True,
    }
    assert (first["export_bytes"], second["export_bytes"], second["trained_parameters"]) == (2**20, None, None)
    assert found["differences"] == {"optimizer.learning_rate": ["0.0002", "0.0005"]}


def test_what_is_no_run_is_named_and_left_out(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "letter.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    make_run(
        tmp_path / "torn", metrics='{"step": 1, "eval/loss": 0.5}\n{"st', recipe="a: [", plan="nonsense", attempts="x"
    )
    others = [str(tmp_path / name) for name in ("gone", "letter.txt", "empty", "torn", "")]
    assert main(["compare", *two, *others]) == 0
    said = capsys.readouterr()
    assert line(said.out.split("results")[1], "state") == ["done", "failed (91)", "new"]
    for expected in (
        f"{tmp_path}/gone: there is no such folder",
        f"{tmp_path}/letter.txt: is a file; give the folder of a run",
        f"{tmp_path}/empty: is no run: it has no attempts.jsonl",
        f"{tmp_path}: is no run; below it are 3, for example {two[0]}",
        f"{tmp_path}/torn: metrics.jsonl:2 cannot be read",
        f"{tmp_path}/torn: recipe.yaml is not YAML",
    ):
        assert expected in said.err
    assert main(["compare", str(tmp_path / "gone")]) == 89


def test_the_page_draws_every_run_in_its_own_colour(two: list[str], tmp_path: Path) -> None:
    """A run without a metric leaves its colour unused; of more runs than colours the first are drawn, and the page says so."""
    make_run(
        tmp_path / "c", metrics=[{"step": 1, "tokens": 1, "train/loss": 0.5}], attempts=[start(), end(exit_code=0)]
    )
    page = tmp_path / "page.html"
    assert main(["compare", two[0], str(tmp_path / "c"), two[1], "--html", str(page)]) == 0
    text = page.read_text()
    figures = dict(re.findall(r'<figure data-metric="([^"]*)">(.*?)</figure>', text, re.S))
    assert re.findall(r'class="curve (c\d+)"', figures["eval/loss"]) == ["c0", "c2"]
    assert re.findall(r'class="curve (c\d+)"', figures["train/loss"]) == ["c0", "c1"]
    assert "http" not in text.replace("http-equiv", "") and "&lt;" not in figures["eval/loss"]
    many = [str(make_run(tmp_path / f"<b>{place}", attempts=[start(), end(exit_code=0)])) for place in range(14)]
    assert main(["compare", *many, "--html", str(page)]) == 0
    text = page.read_text()
    assert "Curves of the first 12 runs" in text and "<b>0" not in text and "&lt;b&gt;13" in text
