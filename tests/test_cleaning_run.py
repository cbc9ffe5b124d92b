"""A run with `data.clean`, from the command line: what it says, what it writes down, and what it trains on."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_tasks

from launcher import recipe
from launcher.errors import RecipeErrors

CLEAN = [
    {"name": "trim"},
    {"name": "drop_empty"},
    {"name": "drop_duplicates"},
    {"name": "drop_leakage"},
]
DROPPED = {"drop_empty": 1, "drop_duplicates": 3, "drop_leakage": 2}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny texts with an empty one, three duplicates, one of them by white space alone, and two rows of data.eval."""
    made = tiny_tasks.make("text_classification", tmp_path_factory.mktemp("dirty"))
    train, held_out = ((made.parent / f"{name}.csv").read_text().splitlines() for name in ("train", "eval"))
    more = [" ,animal", train[1], train[2], f"  {train[3]}", held_out[1], held_out[2]]
    (made.parent / "train.csv").write_text("\n".join([*train, *more]) + "\n")
    return made


def run(dirty: Path, steps: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What environment.json says of the two data sets, and the rows that were dropped."""
    options = [f"data.clean={json.dumps(steps)}", f"output_dir={folder}", "training.max_steps=1"]
    assert tiny.train(dirty, *options) == 0
    train, held_out = json.loads((folder / "environment.json").read_text())["data"]
    lines = (folder / "cleaned.jsonl").read_text().splitlines()
    return {"train": train, "eval": held_out}, [json.loads(line) for line in lines]


def test_a_run_says_counts_and_writes_down_what_it_drops(
    dirty: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], proof_in_this_process: None
) -> None:
    for name in ("first", "from the cache"):
        data, dropped = run(dirty, CLEAN, tmp_path / name)
        said = capfd.readouterr().out
        counts = data["train"]["counts"]
        assert counts["rows before cleaning"] == 28
        assert {step: counts[f"rows dropped by {step}"] for step in DROPPED} == DROPPED
        assert (
            data["train"]["rows"] == 22 and data["eval"]["rows"] == data["eval"]["counts"]["rows before cleaning"] == 5
        )
        assert [row["step"] for row in dropped] == [step for step, number in DROPPED.items() for _ in range(number)]
        assert dropped[0]["data"] == "train" and dropped[0]["where"].endswith("train.csv:24")
        assert "3 rows dropped by drop_duplicates" in said
        assert "train.csv:27: the same as" in said and "eval.csv:2 in data.eval" in said


def test_a_step_that_is_taken_out_drops_nothing(dirty: Path, tmp_path: Path, proof_in_this_process: None) -> None:
    steps = [step for step in CLEAN if step["name"] != "drop_duplicates"]
    data, dropped = run(dirty, steps, tmp_path / "run")
    assert data["train"]["rows"] == 25 and {row["step"] for row in dropped} == {"drop_empty", "drop_leakage"}


@pytest.mark.parametrize(
    ("clean", "problem"),
    [
        ("{name: drop_duplicate}", "must be one of trim, .*did you mean drop_duplicates?"),
        ("{columns: [text]}", "data.clean.0: has no name; write name: one of trim"),
        ("{name: drop_length, min_char: 3}", "is not an option of drop_length; did you mean min_chars?"),
        ("{name: trim, threshold: 1}", "is not an option of trim; it is one of drop_near_duplicates"),
        ("{name: drop_near_duplicates, threshold: 2}", "must be a number above 0 and at most 1, not 2"),
        ("{name: drop_length}", "drop_length sets no limit"),
        ("{name: drop_length, min_words: 3, max_words: 2}", "2 is less than min_words: 3"),
        ("{name: drop_empty, columns: [txt]}", "did you mean text?"),
        ("{name: fix_answers}", "text_classification has no answers that stand in a context"),
    ],
)
def test_a_wrong_step_is_one_located_error(clean: str, problem: str, dirty: Path) -> None:
    changed = dirty.with_name("changed.yaml")
    changed.write_text(dirty.read_text().replace("data: {", f"data: {{clean: [{clean}], "))
    with pytest.raises(RecipeErrors, match=problem.replace("?", r"\?")) as caught:
        recipe.load(changed)
    (found,) = caught.value.problems
    line = next(n for n, text in enumerate(changed.read_text().splitlines(), 1) if clean in text)
    assert found.startswith(f"{changed}:{line}:")


def test_steps_for_texts_are_refused_where_there_are_none(tmp_path: Path) -> None:
    made = tiny_tasks.make("image_classification", tmp_path)
    steps = [{"name": "trim"}, {"name": "drop_duplicates"}, {"name": "drop_leakage", "threshold": 0.9}]
    with pytest.raises(RecipeErrors) as caught:
        recipe.load(made, [f"data.clean={json.dumps(steps)}"])
    assert len(caught.value.problems) == 2
    assert "trim is for texts, and image_classification has none" in str(caught.value)
