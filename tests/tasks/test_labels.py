"""The labels of the data before anything is trained: which were found, and what is refused for their sake."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks

from launcher.__main__ import main


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(folder: Path, labels: list[Any]) -> str:
    """A recipe of texts that are trained and evaluated on rows with these labels."""
    recipe = tiny_tasks.make("text_classification", folder)
    rows = write(folder / "rows.jsonl", [{"text": "the cat", "label": label} for label in labels])
    recipe.write_text(recipe.read_text().replace("train.csv", rows.name).replace("eval.csv", rows.name))
    return str(recipe)


def planned(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The line of the plan that tells of labels."""
    assert main(["plan", "--json", *words]) == 0
    out = capsys.readouterr().out
    return json.loads(out[out.index("{") :])["values"]["labels"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["b", "a", "b"], "2: a 1, b 2"),
        ([["b", "a"], ["b"], []], "2: a 1, b 2"),
        (list(range(80)), "80: 0 1, 1 1, 2 1, 3 1, 4 1, 5 1, 6 1, 7 1, 8 1, 9 1, 10 1, 11 1 and 68 more"),
    ],
)
def test_the_labels_of_the_training_data_are_counted(labels: list[Any], said: str, tmp_path: Path, capsys) -> None:
    recipe = texts(tmp_path, labels)
    assert planned([recipe], capsys) == {"value": said, "origin": "found; counted in data.train"}
    assert main(["check", recipe]) == 0
    assert f"labels: {said}\n" in capsys.readouterr().out


def test_labels_that_are_listed_are_counted_too_and_a_task_may_have_none(recipe: Path, tmp_path: Path, capsys) -> None:
    cell = planned([texts(tmp_path, ["b", "a", "b"]), "data.labels=[b, c, a]"], capsys)
    assert cell == {"value": "3: b 2, c 0, a 1", "origin": "command line; counted in data.train"}
    assert planned([str(recipe)], capsys) == {"value": None, "origin": "causal_lm has no labels"}
