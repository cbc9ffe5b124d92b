"""Labels and numbers for texts: the losses against transformers' own, the labels, and predictions with the export."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_tasks
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from launcher.__main__ import main
from launcher.data.context import Context
from launcher.data.labels import Labels, in_order, text_of
from launcher.errors import DataError, RecipeError
from launcher.losses import IGNORED
from launcher.objectives import classification, regression
from launcher.objectives.options import Classification, Regression
from launcher.schema import Data

NAMES = ("bad", "good", "middling")
SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"


def bert(**head: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=30, **sizes, **head)).double().eval()


def batch(rows: int, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 30, (rows, 5), generator=random)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def in_parts(objective: Any, whole: dict[str, torch.Tensor], term: str) -> float:
    """The loss of a global batch from micro-batches of 3, 1 and 2 rows and one without any: sum over global count."""
    dummy = {name: tensor[:1].clone() for name, tensor in whole.items()}
    dummy["labels"].fill_(torch.nan if dummy["labels"].is_floating_point() and dummy["labels"].ndim == 1 else IGNORED)
    parts = [{name: tensor[a:b] for name, tensor in whole.items()} for a, b in ((0, 3), (3, 4), (4, 6))]
    losses = [objective(**part) for part in [*parts, dummy]]
    counts = [objective.counts(part)[term] for part in [*parts, dummy]]
    assert counts[-1] == 0 and float(losses[-1].terms[term][0]) == 0
    return float(sum(loss.terms[term][0] for loss in losses)) / sum(counts)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, {"bad": 3.0, "good": 0.25}, "balanced"])
def test_one_label_a_row_is_torch_s_weighted_mean(smoothing: float, weights: Any) -> None:
    labels = torch.tensor([0, 2, 2, 1, 2, 0])
    model, whole = bert(num_labels=3), batch(6, labels)
    options = Classification(label_smoothing=smoothing, class_weights=weights)
    context = Context(None, Data(), labels=Labels.listed(NAMES), label_counts=(2, 1, 3), head={"problem_type": SINGLE})
    objective = classification.build(model, options, context).eval()
    by_hand = {None: None, "balanced": [6 / 6, 6 / 3, 6 / 9]}.get(weights if weights != {} else None) if not isinstance(
        weights, dict
    ) else [3.0, 0.25, 1.0]  # fmt: skip
    inputs = {name: tensor for name, tensor in whole.items() if name != "labels"}
    wanted = torch.nn.CrossEntropyLoss(
        weight=None if by_hand is None else torch.tensor(by_hand, dtype=torch.float64), label_smoothing=smoothing
    )(model(**inputs).logits, labels)
    objective.weights = None if by_hand is None else objective.weights.double()
    assert in_parts(objective, whole, "labels") == pytest.approx(float(wanted), rel=1e-6)


def test_several_labels_a_row_is_transformers_own_mean() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]).double()
    model, whole = bert(num_labels=3, problem_type=SEVERAL), batch(6, labels)
    context = Context(None, Data(), labels=Labels.listed(NAMES), head={"problem_type": SEVERAL})
    objective = classification.build(model, Classification(), context).eval()
    assert in_parts(objective, whole, "labels") == pytest.approx(float(model(**whole).loss), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("weights", [None, {"bad": 3.0}])
def test_the_focal_loss_of_one_label_is_the_papers_formula(gamma: float, weights: Any) -> None:
    labels = torch.tensor([0, 2, 2, 1, 2, 0])
    model, whole = bert(num_labels=3), batch(6, labels)
    context = Context(None, Data(), labels=Labels.listed(NAMES), label_counts=(2, 1, 3), head={"problem_type": SINGLE})
    options = Classification(focal_gamma=gamma, class_weights=weights)
    objective = classification.build(model, options, context).double().eval()
    inputs = {name: tensor for name, tensor in whole.items() if name != "labels"}
    p = model(**inputs).logits.softmax(-1)[range(6), labels]
    alpha = torch.tensor([3.0 if weights and label == 0 else 1.0 for label in labels.tolist()]).double()
    wanted = float((alpha * (1 - p) ** gamma * -p.log()).sum() / alpha.sum())
    assert in_parts(objective, whole, "labels") == pytest.approx(wanted, rel=1e-6)


def test_the_focal_loss_of_several_labels_is_the_papers_formula_and_its_gradient() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]).double()
    model, whole = bert(num_labels=3, problem_type=SEVERAL), batch(6, labels)
    context = Context(None, Data(), labels=Labels.listed(NAMES), head={"problem_type": SEVERAL})
    objective = classification.build(model, Classification(focal_gamma=2.0), context).eval()
    inputs = {name: tensor for name, tensor in whole.items() if name != "labels"}
    p = model(**inputs).logits.sigmoid()
    p_of_label = torch.where(labels == 1, p, 1 - p)
    wanted = ((1 - p_of_label) ** 2 * -p_of_label.log()).mean()
    assert in_parts(objective, whole, "labels") == pytest.approx(float(wanted), rel=1e-9)
    (theirs,) = torch.autograd.grad(wanted, model.classifier.weight)
    total, count, _ = objective(**whole).terms["labels"]
    (ours,) = torch.autograd.grad(total / count, model.classifier.weight)
    torch.testing.assert_close(ours, theirs)


def test_what_is_learned_for_certain_has_a_focal_loss_of_zero_and_a_finite_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    classification.cross_entropy(logits, torch.tensor([0, 0]), None, 0.0, focal_gamma=0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    with pytest.raises(RecipeError, match="focal_gamma: a smoothed target"):
        context = Context(None, Data(), labels=Labels.listed(NAMES), head={"problem_type": SINGLE})
        classification.build(bert(num_labels=3), Classification(focal_gamma=1.0, label_smoothing=0.1), context)


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_a_number_a_row_is_torch_s_mean(name: str) -> None:
    labels = torch.tensor([0.5, -3.0, 2.0, 0.1, 9.0, 1.0]).double()
    model, whole = bert(num_labels=1), batch(6, labels)
    objective = regression.build(model, Regression(name=name, huber_delta=2.0), None).eval()
    wanted = {"mse": torch.nn.MSELoss(), "mae": torch.nn.L1Loss(), "huber": torch.nn.HuberLoss(delta=2.0)}[name]
    inputs = {name: tensor for name, tensor in whole.items() if name != "labels"}
    reference = float(wanted(model(**inputs).logits.squeeze(-1), labels))
    assert in_parts(objective, whole, "values") == pytest.approx(reference, rel=1e-9)


def test_options_that_do_not_fit_several_labels_are_refused_and_an_unknown_label_is_named() -> None:
    context = Context(None, Data(), labels=Labels.listed(NAMES), head={"problem_type": SEVERAL})
    with pytest.raises(RecipeError, match="label_smoothing is for one label a row"):
        classification.build(bert(num_labels=3), Classification(label_smoothing=0.1), context)
    context = Context(None, Data(), labels=Labels.listed(NAMES), head={"problem_type": SINGLE})
    with pytest.raises(RecipeError, match="no label godo; did you mean good"):
        classification.build(bert(num_labels=3), Classification(class_weights={"godo": 2.0}), context)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_have_one_order_whatever_the_order_of_rows() -> None:
    assert in_order(["10", "9", "1", "10"]) == ("1", "9", "10")
    assert in_order(["b", "10", "9"]) == ("10", "9", "b")
    assert in_order(["01", "1"]) == ("01", "1"), "not numbers: two ways to write one"
    assert in_order(["-1", "1", "0"]) == ("-1", "0", "1")


def test_values_become_text_and_what_is_no_label_is_refused() -> None:
    assert [text_of(v, "here") for v in (1, 1.0, True, " x ", "1")] == ["1", "1", "true", "x", "1"]
    for value in (None, "", "  ", 1.5, {"a": 1}, ["a"]):
        with pytest.raises(DataError, match="here: a label must be"):
            text_of(value, "here")


def run(task: str, folder: Path, rows: list[dict[str, str]], *words: str) -> int:
    recipe = tiny_tasks.make(task, folder)
    tiny_tasks.write(folder / "train.csv", rows)
    return tiny.train(recipe, f"output_dir={folder / 'run'}", "training.max_steps=1", *words)


EVAL = "data.eval=[{path: train.csv}]"


def evaluated_too(folder: Path) -> str:
    return f"data.eval=[{{path: {folder / 'train.csv'}}}]"


ROWS = [{"text": "the cat", "label": "a"}, {"text": "a dog", "label": "b"}, {"text": "red", "label": "b"}]


@pytest.mark.parametrize(
    ("rows", "words", "says"),
    [
        (ROWS[1:], [], "the labels b, and at least 2"),
        (
            ROWS,
            [],
            r"eval.csv:2: 3 labels are none of the training data: '\w+' \(\d, first at .*eval.csv:2\), '\w+' \(",
        ),
        (ROWS, ["data.labels=[a, c]"], r"train.csv:3: the label 'b' is none of data.labels"),
        ([*ROWS, {"text": "red", "label": " "}], [], r"train.csv:5: column 'label' is empty"),
        ([*ROWS, {"text": "", "label": "a"}], [EVAL], r"train.csv:5: a text is empty"),
        (ROWS, [EVAL, "loss.class_weights={c: 2.0}"], "loss.class_weights: there is no label c"),
        (ROWS, [EVAL, "data.packing=true"], "data.packing: text_classification does not use it"),
        (ROWS, [EVAL, "evaluation.max_new_tokens=9"], "text_classification generates nothing"),
        (ROWS, [EVAL, "evaluation.metrics=[subset_accuracy]"], "cannot be measured on this"),
        (ROWS, ["data.eval=[{path: lists.csv}]"], "data.train has one label a row, data.eval lists of labels"),
    ],
)
def test_bad_data_is_located(rows: Any, words: list[str], says: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists.csv").write_text('text,label\nthe cat,"[""a"", ""b""]"\na dog,[]\n')
    assert run("text_classification", tmp_path, rows, *words) == 89
    said = capsys.readouterr()
    assert re.search(says, said.err), said.err


def test_a_list_in_a_cell_of_a_csv_file_is_a_list(tmp_path: Path) -> None:
    """As JSON or as Python writes it; what merely begins and ends like one is a label."""
    lists = ['["a", "b"]', "['b']", "[]"]
    assert (
        run("text_classification", tmp_path, [{"text": "red", "label": one} for one in lists], evaluated_too(tmp_path))
        == 0
    )
    config = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert config["problem_type"] == SEVERAL and list(config["id2label"].values()) == ["a", "b"]
    labels = ["[a]", "[1, 2", "[x](y)"]
    other = tmp_path / "other"
    other.mkdir()
    assert (
        run("text_classification", other, [{"text": "red", "label": one} for one in labels], evaluated_too(other)) == 0
    )
    config = json.loads((other / "run" / "export" / "config.json").read_text())
    assert config["problem_type"] == SINGLE and sorted(config["id2label"].values()) == sorted(labels)


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1_000", "nan", "inf", "many"])
def test_a_number_that_the_weights_cannot_hold_is_located(value: str, tmp_path: Path, capsys) -> None:
    rows = [{"text": "the cat", "label": "1"}, {"text": "a dog", "label": value}]
    assert run("text_regression", tmp_path, rows) == 89
    assert "train.csv:3: a label must be a number of at most 3.4e+38" in capsys.readouterr().err


def test_labels_that_the_model_knows_keep_its_order(tmp_path: Path, capsys) -> None:
    """Or the rows of its head would stand for other labels."""
    recipe = tiny_tasks.make("text_classification", tmp_path)
    order, common = ["thing", "plant", "animal"], ["training.max_steps=1", "optimizer.learning_rate=1e-12"]
    assert tiny.train(recipe, f"output_dir={tmp_path / 'first'}", f"data.labels={order}", "training.max_steps=8") == 0
    again = [f"model.name_or_path={tmp_path / 'first' / 'export'}", *common]
    assert tiny.train(recipe, f"output_dir={tmp_path / 'again'}", *again) == 0
    assert "the labels stand in the order in which the model knows them" in capsys.readouterr().out
    assert last(tmp_path / "again")["eval/loss"] == pytest.approx(last(tmp_path / "first")["eval/loss"], rel=1e-6)
    config = json.loads((tmp_path / "again" / "export" / "config.json").read_text())
    assert list(config["id2label"].values()) == order
    assert tiny.train(recipe, f"output_dir={tmp_path / 'listed'}", "data.labels=[animal, plant, thing]", *again) == 0
    assert "in another order than data.labels" in capsys.readouterr().out


def last(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_rows_that_cannot_be_used_are_counted_and_skipped_where_the_recipe_says_so(tmp_path: Path, capsys) -> None:
    rows = [*ROWS, {"text": "red", "label": ""}, {"text": "blue", "label": "a"}]
    assert (
        run(
            "text_classification",
            tmp_path,
            rows,
            "data.on_error=skip",
            "data.eval=[{path: %s}]" % (tmp_path / "train.csv"),
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "train.csv:5: " in said
    assert "1 rows skipped because they cannot be used" in said and "4 rows kept" in said


# --- several labels, and predictions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows with lists of labels, one of them empty."""
    folder = tmp_path_factory.mktemp("several")
    recipe = tiny_tasks.make("text_classification", folder)
    lists = [["a", "b"], ["b"], [], ["c", "a"], ["c"], ["a"]]
    texts = ["the cat", "a dog sees", "red blue green", "house", "tree river or", "when slowly"]
    rows = [json.dumps({"text": text, "label": labels}) for text, labels in zip(texts, lists, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    words = [f"data.{which}=[{{path: {folder / 'rows.jsonl'}}}]" for which in ("train", "eval")]
    assert tiny.train(recipe, f"output_dir={folder / 'run'}", *words) == 0
    return folder / "run"


def test_several_labels_are_learned_and_measured(several: Path) -> None:
    last = [json.loads(line) for line in (several / "metrics.jsonl").read_text().splitlines()][-1]
    assert {"eval/loss", "eval/subset_accuracy", "eval/f1_micro"} <= last.keys() and "eval/accuracy" not in last
    config = json.loads((several / "export" / "config.json").read_text())
    assert config["problem_type"] == SEVERAL and config["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_a_threshold_says_how_sure_a_label_must_be(several: Path, tmp_path: Path, capsys) -> None:
    def labels(threshold: str) -> list[str]:
        output = tmp_path / "answers.jsonl"
        assert main(["predict", str(several), "the cat", "--threshold", threshold, "--output", str(output)]) == 0
        answer = json.loads(output.read_text())
        assert answer["labels"] == [name for name, score in answer["scores"].items() if score >= float(threshold)]
        return answer["labels"]

    assert labels("0") == ["a", "b", "c"] and labels("1") == []
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(several), "the cat", "--threshold", "30"])
    assert "--threshold: '30' is not a score from 0 to 1" in capsys.readouterr().err


def test_lists_and_single_labels_in_one_file_are_refused(tmp_path: Path, capsys) -> None:
    recipe = tiny_tasks.make("text_classification", tmp_path)
    rows = [{"text": "the", "label": "a"}, {"text": "cat", "label": ["b"]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", f"data.train=[{{path: {path}}}]") == 89
    assert "rows.jsonl:2: a list of labels, and rows before have one label" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["text_classification", "text_regression"])
def test_predictions_are_those_of_plain_transformers(task: str, tmp_path: Path, capsys) -> None:
    recipe = tiny_tasks.make(task, tmp_path)
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}") == 0
    output = tmp_path / "answers.jsonl"
    assert main(["predict", str(tmp_path / "run"), "x", "--threshold", "0.5"]) == 89
    assert "says no scores of which several could count; leave --threshold out" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "eval.csv"), "--output", str(output)]) == 0
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    with (tmp_path / "eval.csv").open() as content:
        rows = list(csv.DictReader(content))
    export = tmp_path / "run" / "export"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(export), AutoTokenizer.from_pretrained(export)
    assert len(answers) == len(rows) == 5
    for answer, row in zip(answers, rows, strict=True):
        inputs = tokenizer(
            row["text"], row.get("text_pair"), truncation="longest_first", max_length=12, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        if task == "text_regression":
            assert answer["value"] == pytest.approx(float(logits), abs=1e-5)
        else:
            scores = logits.softmax(-1)
            assert list(answer["scores"].values()) == pytest.approx(scores.tolist(), abs=1e-5)
            assert answer["label"] == model.config.id2label[int(scores.argmax())]


def test_texts_and_lines_are_predicted_in_their_order(several: Path, tmp_path: Path, capsys) -> None:
    from launcher.__main__ import main

    (tmp_path / "lines.txt").write_text("the cat\n\na dog sees the red house\n")
    assert main(["predict", str(several), "green", str(tmp_path / "lines.txt"), "--batch-size", "2"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["input"] for answer in answers] == ["green", "the cat", "a dog sees the red house"]
    assert all(set(answer["scores"]) == {"a", "b", "c"} for answer in answers)


def test_a_folder_without_an_export_is_refused(tmp_path: Path, capsys) -> None:
    from launcher.__main__ import main

    assert main(["predict", str(tmp_path), "text"]) == 89
    assert "launcher export RUN" in capsys.readouterr().err
