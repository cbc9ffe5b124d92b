"""The labels of the data before anything is trained: which were found, and what is refused for their sake."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks

from launcher.__main__ import main
from launcher.data.labels import Labels


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


def test_texts_in_the_column_of_labels_are_not_all_printed(tmp_path: Path, capsys) -> None:
    recipe = texts(tmp_path, ["a", "b", *(f"sentence {number}" for number in range(500))])
    assert main(["check", recipe, "data.labels=[a, b]"]) == 89
    said = capsys.readouterr().err
    assert "500 labels are none of data.labels" in said and "name the columns right" in said and len(said) < 2000


def test_weights_of_labels_that_there_are_not_are_found_before_the_run(tmp_path: Path, capsys) -> None:
    for verb in ("check", "plan"):
        assert main([verb, texts(tmp_path, ["good", "bad"]), "loss.class_weights={god: 3.0}"]) == 89
        assert "there is no label god; did you mean good?" in capsys.readouterr().err


def test_labels_that_are_listed_are_counted_too_and_a_task_may_have_none(recipe: Path, tmp_path: Path, capsys) -> None:
    cell = planned([texts(tmp_path, ["b", "a", "b"]), "data.labels=[b, c, a]"], capsys)
    assert cell == {"value": "3: b 2, c 0, a 1", "origin": "command line; counted in data.train"}
    assert planned([str(recipe)], capsys) == {"value": None, "origin": "causal_lm has no labels"}


@pytest.mark.parametrize(
    ("labels", "metric", "is_there"),
    [
        (["a", "b", "c"], "top5_accuracy", False),
        (list("abcdef"), "top5_accuracy", True),
        (["a", "b"], "auroc", True),
        (["a", "b"], "hamming_loss", False),
        ([["a", "b"], []], "hamming_loss", True),
        ([["a", "b"], []], "accuracy", False),
    ],
)
def test_a_metric_that_these_labels_cannot_have_is_refused_by_the_check(
    labels: list[Any], metric: str, is_there: bool, tmp_path: Path, capsys
) -> None:
    """As training would, which has to load and try the model for it."""
    code = main(["check", texts(tmp_path, labels), f"evaluation.metrics=[loss, {metric}]"])
    assert code == (0 if is_there else 89)
    assert (
        f"eval/{metric} cannot be measured on this data; there are eval/loss, " in capsys.readouterr().err
    ) != is_there


@pytest.mark.parametrize(
    ("train", "refused"), [([["O", "B-X"]], "f1_macro"), ([["NOUN", "VERB"]], "f1"), ([["NOUN", "B-X"]], None)]
)
def test_spans_and_tags_have_metrics_of_their_own(train: list[list[str]], refused: str, tmp_path: Path, capsys) -> None:
    for metric in ("f1", "f1_macro"):
        assert main([*tags(tmp_path, train, train), f"evaluation.metrics=[{metric}]"]) == (
            89 if metric == refused else 0
        )


# --- labels that the training does not know ----------------------------------------------------------------------------


def tags(folder: Path, train: list[list[str]], *evaluated: list[list[str]]) -> list[str]:
    """A recipe of sentences with these tags, evaluated on one file or several."""
    recipe = tiny_tasks.make("token_classification", folder)
    for name, sentences in (("train", train), *((f"eval{n}", rows) for n, rows in enumerate(evaluated))):
        write(folder / f"{name}.jsonl", [{"tokens": ["ada"] * len(tags), "tags": tags} for tags in sentences])
    listed = ", ".join(f"{{path: {folder}/eval{n}.jsonl}}" for n in range(len(evaluated)))
    return ["check", str(recipe), f"data.eval=[{listed}]"]


def test_all_unknown_labels_are_named_at_once_with_a_line_to_paste(tmp_path: Path, capsys) -> None:
    words = tags(tmp_path, [["O", "B-PER"]], [["O"], ["I-PER", "O", "I-PER"], ["B-LOC"]], [["B-LOC", "B-PER", "I-LOC"]])
    assert main(words) == 89
    said = capsys.readouterr().err
    assert f"{tmp_path}/eval0.jsonl:2 token 0: 3 labels are none of the training data: " in said
    for label, count, place in (("I-PER", 2, "0.jsonl:2"), ("B-LOC", 2, "0.jsonl:3"), ("I-LOC", 1, "1.jsonl:1")):
        assert f"'{label}' ({count}, first at {tmp_path}/eval{place} token " in said
    line = said.partition("under data: labels: ")[2].strip()
    assert json.loads(line) == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    assert main([*words, f"data.labels={line}"]) == 0


def test_a_single_unknown_label_is_what_it_says_and_no_other_part_of_its_span(tmp_path: Path, capsys) -> None:
    assert main(tags(tmp_path, [["O", "B-PER"]], [["I-PER", "I-PER"]])) == 89
    said = capsys.readouterr().err
    assert "the label 'I-PER' is none of the training data (2 times; known: B-PER, O)" in said


def test_what_is_to_be_pasted_keeps_the_order_and_the_names_that_were_given() -> None:
    assert Labels.listed(["b", "a"]).line_with(["c"]) == 'labels: ["b", "a", "c"]'
    assert Labels.listed({"0": "no", "1": "yes"}).line_with(["7"]) == 'labels: {"0": "no", "1": "yes", "7": "7"}'
    assert Labels.found(["10", "9"]).line_with(["1"]) == 'labels: {"1": "1", "9": "9", "10": "10"}'
