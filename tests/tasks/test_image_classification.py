"""Labels for pictures: the loss against transformers' own, learning of digits, bad data, and predictions with the export."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tiny
import tiny_pictures
import tiny_tasks
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import pipeline

from launcher.__main__ import main
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.schema import Data
from launcher.tasks.image_classification import Config, objective, rows

NAMES = tuple(tiny_pictures.COLOURS)


def test_the_loss_is_transformers_own_whatever_the_micro_batches(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_labels=3, **tiny_pictures.VIT)).eval()
    head = {"problem_type": "single_label_classification"}
    context = Context(ViTImageProcessorPil(size={"height": 16, "width": 16}), Data(), 0, Labels.listed(NAMES), (), head)
    made = prepared(tiny_pictures.in_folders(tmp_path, 7), context)
    whole = rows.collate([[place] for place in range(7)], lambda place, *_: made[place], context)
    wanted = model(pixel_values=whole["pixel_values"], labels=whole["labels"]).loss
    built = objective.build(model, Config(), context).eval()
    units = ([[0], [1]], [[2, 3, 4]], [], [[5], [6]])
    parts = [rows.collate(some, lambda place, *_: made[place], context) for some in units]
    with torch.no_grad():
        total = sum(float(built(**part).terms["labels"][0]) for part in parts)
    assert sum(built.counts(part)["labels"] for part in parts) == 7 and built.counts(parts[2])["labels"] == 0
    assert total / 7 == pytest.approx(float(wanted.detach()), rel=1e-5)


def prepared(folder: Path, context: Context) -> list[dict[str, Any]]:
    tools = Tools(context.processor, context.data, "error", {}, context.labels)
    files = sorted(folder.rglob("*.png"))
    examples = [(str(file), {"image": str(file), "label": file.parent.name}) for file in files]
    return [row for where, example in examples for row in rows.rows(where, example, tools)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on scikit-learn's digits, their pictures inside a parquet file as the hub has them."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    images = (found.images * 15).astype(np.uint8)
    for name, part in (("train", slice(0, 1200)), ("eval", slice(1200, 1400))):
        column = [{"bytes": tiny_pictures.png(image), "path": None} for image in images[part]]
        table = {"image": column, "label": [int(label) for label in found.target[part]]}
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"{name}.parquet")
    recipe = {"model_type": "resnet", **tiny_pictures.RESNET, "hidden_sizes": [16, 32]}
    (folder / "digits.yaml").write_text(
        f"task: image_classification\nmethod: full\nmodel: {{init: {json.dumps(recipe)}}}\n"
        "data: {train: [{path: train.parquet}], eval: [{path: eval.parquet}], image_size: 16}\n"
        "training: {global_batch_size: 32, per_device_train_batch_size: 32, max_steps: 60, precision: fp32}\n"
        "optimizer: {learning_rate: 1.0e-2}\nexport: {verify: false}\nlogging: {trackers: [jsonl]}\n"
    )
    assert tiny.train(folder / "digits.yaml", f"output_dir={folder / 'run'}") == 0
    return folder / "run"


def test_digits_are_learned(digits: Path) -> None:
    accuracy = tiny.losses(digits, "eval/accuracy")
    assert accuracy[0] < 0.3 and accuracy[60] > 0.85, accuracy
    assert json.loads((digits / "export" / "config.json").read_text())["id2label"]["9"] == "9"


def test_errors_are_shown_with_small_copies(digits: Path) -> None:
    details = json.loads((digits / "evaluation.json").read_text())
    assert sum(map(sum, details["confusion_matrix"]["counts"])) == 200
    errors = details["errors"]
    assert errors and all(error["reference"] != error["predicted"] for error in errors)
    files = [error.get("picture") for error in errors]
    assert files[:12] == [f"pictures/{number:04}.png" for number in range(1, 1 + min(12, len(errors)))]
    place = int(re.search(r"row (\d+)$", errors[0]["where"])[1])
    shown = np.asarray(Image.open(digits / errors[0]["picture"]).convert("L"))
    assert np.array_equal(shown, (load_digits().images[1200 + place - 1] * 15).astype(np.uint8))
    assert not {"image"} & {key for error in errors for key in error}


def test_an_evaluation_as_json_has_no_pictures(digits: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(digits), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["eval/accuracy"] == tiny.losses(digits, "eval/accuracy")[60] and said["details"]["errors"]


def test_predictions_are_those_of_the_pipeline_of_plain_transformers(digits: Path, tmp_path: Path) -> None:
    folder = tiny_pictures.in_folders(tmp_path / "new", 5)
    output, drawn = tmp_path / "answers.jsonl", tmp_path / "drawn"
    words = [str(folder), "--output", str(output), "--pictures", str(drawn), "--batch-size", "2"]
    assert main(["predict", str(digits), *words]) == 0
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    classify = pipeline("image-classification", model=str(digits / "export"), top_k=10)
    assert len(answers) == 5
    for answer in answers:
        wanted = {found["label"]: found["score"] for found in classify(answer["input"])}
        assert answer["scores"] == pytest.approx(wanted, abs=1e-5) and answer["label"] == max(wanted, key=wanted.get)
        assert Path(answer["picture"]).is_file() and Path(answer["picture"]).parent == drawn


# --- bad data ----------------------------------------------------------------------------------------------------------


def spoil(folder: Path, name: str, content: bytes | None) -> None:
    file = folder / "train" / name
    file.parent.mkdir(exist_ok=True)
    file.unlink() if content is None else file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("red/02.png", b"", "train/red/02.png: the picture cannot be read: in no format"),
        ("red/02.png", tiny_pictures.png(np.zeros((90, 90, 3), np.uint8))[:-30], "train/red/02.png: .*truncated"),
        ("02.png", tiny_pictures.png(np.zeros((9, 9), np.uint8)), "train/02.png: stands in no class folder"),
    ],
)
def test_bad_pictures_are_located_or_counted_and_skipped(
    name: str, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_tasks.make("image_classification", tmp_path)
    spoil(tmp_path, name, content)
    words = [f"output_dir={tmp_path / 'run'}", "training.max_steps=1"]
    assert tiny.train(recipe, *words) == 89
    assert re.search(says, capsys.readouterr().err)
    assert tiny.train(recipe, *words, "data.on_error=skip") == 0
    assert "1 rows skipped because they cannot be used" in capsys.readouterr().out


def test_a_label_of_the_evaluation_that_training_does_not_have_is_located(tmp_path: Path, capsys) -> None:
    recipe = tiny_tasks.make("image_classification", tmp_path)
    (tmp_path / "eval" / "red").rename(tmp_path / "eval" / "rde")
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}") == 89
    says = r"eval/rde/\d+.png: the label 'rde' is none of the training data; did you mean red"
    assert re.search(says, capsys.readouterr().err)


def test_a_picture_that_changes_after_the_preparation_stops_the_run(tmp_path: Path, capsys, monkeypatch) -> None:
    """The rows come from the cache and are read again for each batch."""
    from launcher import run

    recipe, prepare = tiny_tasks.make("image_classification", tmp_path), run.prepare_stages

    def then_spoil(*given: Any) -> Any:
        made = prepare(*given)
        spoil(tmp_path, "red/02.png", tiny_pictures.png(np.zeros((9, 9), np.uint8)))
        return made

    monkeypatch.setattr(run, "prepare_stages", then_spoil)
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}") == 89
    assert "red/02.png: the picture has changed since the data was prepared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.max_length=128"], "data.max_length: image_classification does not use it"),
        (["tokenizer.pad_token=x"], "tokenizer: image_classification reads no text"),
        (["data.image_size=20"], "data.image_size: ViTForImageClassification does not take the pictures"),
        (["data.image_size=[20]"], "data.image_size"),
    ],
)
def test_keys_that_do_not_fit_are_refused(words: list[str], says: str, tmp_path: Path, capsys) -> None:
    recipe = tiny_tasks.make("image_classification", tmp_path)
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", *words) == 89
    assert says in capsys.readouterr().err


def test_a_copy_of_the_data_has_rows_of_its_own_and_is_the_same_data(tmp_path: Path) -> None:
    """The cache knows both by their content; rows of the one that is gone would name files that are gone."""
    import shutil

    recipe = tiny_tasks.make("image_classification", tmp_path)
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", "training.max_steps=1") == 0
    for name in ("train", "eval"):
        shutil.move(tmp_path / name, tmp_path / f"{name}-moved")
    words = [f"data.{name}=[{{path: {tmp_path / name}-moved}}]" for name in ("train", "eval")]
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", *words, "--resume", "auto") == 0


def test_an_adapter_of_weights_that_nobody_keeps_is_refused(tmp_path: Path, capsys) -> None:
    recipe = tiny_tasks.make("image_classification", tmp_path)
    words = ["method=lora", "model={init: {model_type: vit}}", "model.name_or_path=null"]
    assert main(["plan", str(recipe), *words]) == 89
    assert "model.init: random weights are nothing to adapt; use method: full" in capsys.readouterr().err
