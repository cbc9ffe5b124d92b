"""What `launcher predict` takes as an input, what it refuses, and that predictions do not depend on how the model was taught."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_tasks

from launcher.__main__ import main

Say = Callable[..., list[dict[str, Any]]]
ONE_STEP = "training.max_steps=1"


def trained(task: str, folder: Path, *words: str) -> Path:
    recipe = tiny_tasks.make(task, folder)
    assert tiny.train(recipe, f"output_dir={folder / 'run'}", ONE_STEP, *words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose loss has weights for the classes, which its data alone knows."""
    return trained("text_classification", tmp_path_factory.mktemp("texts"), "loss={class_weights: balanced}")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("token_classification", tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("image_classification", tmp_path_factory.mktemp("images"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    """The answers that are printed."""

    def of(*words: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main(["predict", *map(str, words)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]

    return of


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The message of what ends with 89."""

    def of(*words: Any) -> str:
        capsys.readouterr()
        assert main(["predict", *map(str, words)]) == 89
        return capsys.readouterr().err

    return of


def test_a_text_to_tag_is_its_words(words: Path, said: Say, tmp_path: Path) -> None:
    assert said(words, "ada lives in paris")[0]["tokens"] == ["ada", "lives", "in", "paris"]
    lines = tmp_path / "lines.txt"
    lines.write_text("ada lives\n\nin paris\n")
    assert [answer["text"] for answer in said(words, lines)] == ["ada lives", "in paris"]


def test_a_format_that_is_named_is_the_one_that_is_read(words: Path, said: Say, tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.txt"
    tagged.write_text("ada B-PER\nlives O\n\nparis B-LOC\n")
    assert [answer["tokens"] for answer in said(words, tagged, "--format", "conll")] == [["ada", "lives"], ["paris"]]


def test_weights_of_classes_play_no_part(texts: Path, said: Say) -> None:
    assert set(said(texts, "the cat")[0]["scores"]) == {"animal", "plant", "thing"}


@pytest.mark.parametrize("missing", ["missing.csv", "data/missing.jsonl", "TEXTS.TXT", "", " "])
def test_a_file_that_is_not_there_is_no_text(missing: str, texts: Path, refused: Callable[..., str]) -> None:
    assert f"there is no file {missing!r}" in refused(texts, missing)


def test_a_text_may_be_longer_than_the_name_of_a_file(texts: Path, said: Say) -> None:
    assert said(texts, "the cat " * 600)[0]["input"].startswith("the cat the cat")


def test_texts_from_standard_input(texts: Path, said: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\nthe house\n"))
    assert [answer["input"] for answer in said(texts, "-")] == ["the cat", "the house"]


def test_a_line_ends_where_an_editor_ends_it(
    texts: Path, said: Say, refused: Callable[..., str], tmp_path: Path
) -> None:
    lines = tmp_path / "lines.TXT"
    lines.write_text("the cat\u2028sees\x0c a dog\r\nthe house\n", encoding="utf-8", newline="")
    assert len(said(texts, lines)) == 2
    lines.write_bytes("the caf\u00e9\n".encode("latin-1"))
    assert "lines.TXT:1: not UTF-8 text" in refused(texts, lines)
    lines.write_text("")
    assert "holds no text" in refused(texts, lines)


def test_a_model_of_pairs_insists_on_both(refused: Callable[..., str], said: Say, tmp_path: Path) -> None:
    run = trained("text_regression", tmp_path)
    message = refused(run, "the cat")
    assert "has learned from pairs, and this is one text" in message and "text and text_pair" in message
    assert len(said(run, tmp_path / "eval.csv")) == 5


def test_other_columns_are_named_on_the_command_line(
    texts: Path, said: Say, refused: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("review\nthe cat\n")
    assert "the columns 'review' are none of text; name them with --columns" in refused(texts, file)
    assert said(texts, file, "--columns", "text=review")[0]["input"] == "the cat"
    assert [one["input"] for one in said(texts, file, "--header", "text")] == ["review", "the cat"]


def test_folders_may_be_named_from_here(
    images: Path, said: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of classes; and one with pictures, whose folders below are said to be left out."""
    monkeypatch.chdir(images.parent)
    classes = said(images, "eval")
    assert len(classes) == 5
    first = sorted(Path("eval").iterdir())[0]
    (first / "below").mkdir()
    shutil.copy(next(first.glob("*.png")), first / "below")
    assert main(["predict", str(images), str(first)]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == len(list(first.glob("*.png")))
    assert "1 files are left out" in shown.err and "lie in folders below" in shown.err
    shutil.rmtree(first / "below")


def test_no_drawing_takes_the_place_of_another(images: Path, said: Say, tmp_path: Path) -> None:
    picture = next((images.parent / "eval").rglob("*.png"))
    for name in ("a/x.png", "b/x.png", "a/x-2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(picture, tmp_path / name)
    inputs = [tmp_path / name for name in ("a/x.png", "b/x.png", "a/x-2.png")]
    answers = said(images, *inputs, "--pictures", tmp_path / "drawn")
    assert len({answer["picture"] for answer in answers}) == len(os.listdir(tmp_path / "drawn")) == 3


def test_an_export_that_is_broken_is_said_to_be(texts: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    broken = shutil.copytree(texts / "export", tmp_path / "export")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "the export cannot be loaded" in refused(broken, "the cat")
    (broken / "model.safetensors").unlink()
    assert "the export cannot be loaded" in refused(broken, "the cat")
    (broken / "launcher.json").write_text("{}")
    assert "this is not an export of the launcher" in refused(broken, "the cat")


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_no_rows_at_once_is_refused(number: str, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(texts), "the cat", "--batch-size", number])
    assert f"{number!r} is not a whole number of 1 or more" in capsys.readouterr().err


def test_other_data_is_evaluated(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.csv"
    other.write_text("text,label\nthe cat,animal\nthe house,thing\nthe tree,plant\n")
    words = [f"data.eval=[{{path: {other}}}]", "evaluation.metrics=[loss, accuracy]", "--json"]
    assert main(["evaluate", str(texts), *words]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(map(sum, found["details"]["confusion_matrix"]["counts"])) == 3 and "eval/f1_macro" not in found
    assert main(["evaluate", str(texts), f"data.train=[{{path: {other}}}]"]) == 89
    assert "an evaluation changes nothing but data.eval and evaluation" in capsys.readouterr().err
