"""What a source's keys ask for and its format cannot give is an error of the recipe, before torch is imported."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written import put, rows, source

from launcher import recipe
from launcher.data import sources
from launcher.data.columns import OUR_COLUMNS
from launcher.data.fit import misfits
from launcher.data.formats import FORMATS
from launcher.errors import DataError, RecipeErrors
from launcher.tasks import causal_lm

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "rows.jsonl", [{"text": "a", "label": "x"}])
    put(tmp_path, "bare.csv", "x,a\ny,b\n")
    put(tmp_path, "marked.csv", "\ufefftext,label\na,x\n")
    put(tmp_path, "pictures.jsonl", [{"image": "a.png", "label": "x"}])
    put(tmp_path, "classes/cat/a.png", "")
    put(tmp_path, "masked/images/a.png", "")
    put(tmp_path, "masked/masks_3class/a.png", "")
    put(tmp_path, "a.conll", "a O\n")
    put(tmp_path, "a.json", {"data": [{"paragraphs": []}]})
    put(tmp_path, "empty/readme.md", "")
    return tmp_path


def test_a_file_whose_rows_lack_one_column_can_be_given_it(folder: Path) -> None:
    put(folder, "texts.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"or give all rows the same label with defaults: \{label: \.\.\.\}"):
        next(sources.examples(source(folder / "texts.jsonl"), ["labelled_text"]))
    assert rows(folder / "texts.jsonl", "labelled_text", defaults={"label": "x"}) == [{"text": "a", "label": "x"}]


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("rows.jsonl", {"format": "labeled_text"}, "format", "labeled_text is none of .*; did you mean labelled_text?"),
    ("rows.jsonl", {"header": ["a"]}, "header", "is for csv and tsv files that have no header line"),
    ("bare.csv", {"header": ["text", "text"]}, "header", "must name every column once"),
    ("bare.csv", {"header": []}, "header", "must name every column once"),
    ("a.conll", {"header": ["text"]}, "header", "is for csv and tsv"),
    ("owner/name", {"header": ["text"]}, "header", "is for csv and tsv"),
    ("rows.jsonl", {"columns": {"lable": "label"}}, "columns.lable", "lable is not one of .*; did you mean label?"),
    ("rows.jsonl", {"format": "labelled_text", "columns": {"tags": "label"}}, "columns.tags", "has no column tags"),
    ("rows.jsonl", {"defaults": {"lable": 1}}, "defaults.lable", "lable is not one of .*; did you mean label?"),
    ("rows.jsonl", {"format": "labelled_text", "defaults": {"mask": 1}}, "defaults.mask", "has no column mask"),
    ("rows.jsonl", {"format": "labelled_text", "media": "."}, "media", "names no pictures or sounds"),
    ("classes", {"format": "image_folder", "media": "."}, "media", "image_folder is a folder for every class"),
    ("classes", {"format": "image_folder", "columns": {"label": "x"}}, "columns", "has no columns to name"),
    ("classes", {"format": "image_folder", "defaults": {"label": "x"}}, "defaults", "no rows that could leave"),
    ("rows.jsonl", {"format": "image_folder"}, "path", "image_folder is a folder, and .*rows.jsonl is a file"),
    ("empty", {"format": "image_folder"}, "path", "empty does not look like image_folder: a folder for every class"),
    ("empty", {"format": "voc"}, "path", "does not look like voc"),
    ("empty", {"format": "audio_folder"}, "path", "does not look like audio_folder"),
    ("empty", {"format": "conll"}, "path", r"holds no file of conll \(\.conll"),
    ("rows.jsonl", {"format": "squad"}, "path", "does not look like squad"),
    ("a.json", {"format": "coco"}, "path", "does not look like coco"),
    ("a.conll", {"format": "conllu"}, "path", "does not look like conllu"),
    ("owner/name", {"format": "voc"}, "path", "voc is read from local files"),
    ("a.conll", {"format": "conll", "columns": {"tags": "last"}}, "columns.tags", "have numbers, counted from 0"),
    ("masked", {"format": "mask_folder"}, "path", "no folder .*/masks; .*there are images, masks_3class"),
    (
        "masked",
        {"format": "mask_folder", "columns": {"mask": "masks_3clas"}},
        "columns.mask",
        "did you mean masks_3class",
    ),
]


@pytest.mark.parametrize(("path", "options", "key", "says"), WRONG)
def test_a_key_that_the_format_cannot_serve_is_named(
    path: str, options: dict[str, Any], key: str, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's check and the reader say the same."""
    given = source(folder / path if (folder / path).exists() else Path(path), **options)
    found = dict(misfits(given, tuple(FORMATS), given.format))
    assert list(found) == [key]
    with pytest.raises(DataError, match=f"{key}: .*{says}".replace("?", r"\?")):
        list(sources.examples(given, tuple(FORMATS)))
    monkeypatch.setattr(causal_lm, "TRAITS", replace(causal_lm.TRAITS, formats=tuple(FORMATS)))
    with pytest.raises(RecipeErrors) as caught:
        load(folder, "{path: " + path + "".join(f", {name}: {yaml(value)}" for name, value in options.items()) + "}")
    assert any(f" data.train.0.{key}: " in problem for problem in caught.value.problems)


def yaml(value: Any) -> str:
    return json.dumps(value).replace('"', "'")


def load(folder: Path, train: str) -> recipe.Recipe:
    text = f"task: causal_lm\nmethod: lora\nmodel: {{name_or_path: owner/model}}\ndata: {{train: [{train}]}}\n"
    return recipe.load(put(folder, "recipe.yaml", text))


def test_a_format_of_another_task_is_refused_with_those_of_this_one(folder: Path) -> None:
    with pytest.raises(RecipeErrors, match=r":4:\d+ data\.train\.0\.format: labelled_text is none of the formats"):
        load(folder, "{path: rows.jsonl, format: labelled_text}")
    with pytest.raises(DataError, match=r"rows\.jsonl: format: squad is none .*\(text\)"):
        rows(folder / "rows.jsonl", "text", format="squad")


def test_the_recipe_s_check_knows_header_defaults_and_layouts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_lm, "TRAITS", replace(causal_lm.TRAITS, formats=tuple(FORMATS)))
    for good in (
        "{path: bare.csv, header: [label, text]}",
        "{path: marked.csv, format: labelled_text}",
        "{path: rows.jsonl, format: labelled_text, columns: {label: intents}, defaults: {label: []}}",
        "{path: classes}",
        "{path: pictures.jsonl, media: classes/cat}",
        "{path: masked, format: mask_folder, columns: {mask: masks_3class}}",
        '{path: a.conll, columns: {tags: "1"}}',
        "{path: a.json}",
    ):
        load(folder, good)
    assert load(folder, "{path: pictures.jsonl, media: classes}").data.train[0].media == str(folder / "classes")
    with pytest.raises(
        RecipeErrors, match=r"data\.train\.0\.media: there is no folder .*/clases nor clases; did you mean"
    ):
        load(folder, "{path: pictures.jsonl, media: clases}")
    with pytest.raises(DataError, match=r"pictures\.jsonl: media: there is no folder clases"):
        rows(folder / "pictures.jsonl", "labelled_image", media="clases")
    monkeypatch.setattr(causal_lm, "TRAITS", replace(causal_lm.TRAITS, formats=("labelled_image", "image_folder")))
    with pytest.raises(
        RecipeErrors, match=r"data\.train\.0\.path: .*no data file .*nor does it look like image_folder"
    ):
        load(folder, "{path: empty}")


def test_every_format_is_there_with_its_columns() -> None:
    assert set(OUR_COLUMNS) == {name for one in FORMATS.values() for name in one.all_columns}
    assert {name for name, one in FORMATS.items() if one.layout} == {
        "conll", "conllu", "squad", "image_folder", "coco", "voc", "mask_folder", "audio_folder"
    }  # fmt: skip


def test_the_check_needs_no_heavy_import(folder: Path) -> None:
    code = (
        "import sys; from launcher.data import fit, formats; from launcher.schema import Source\n"
        "assert fit.detect(Source(path='classes'), tuple(formats.FORMATS)) == 'image_folder'\n"
        "heavy = {'torch', 'datasets', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT)}, check=True)


def test_the_split_of_a_local_folder_is_refused_for_every_layout(folder: Path) -> None:
    for path, name in (("classes", "image_folder"), ("masked", "mask_folder")):
        with pytest.raises(DataError, match="local files are read whole"):
            rows(folder / path, name, split="train", columns={"mask": "masks_3class"} if name == "mask_folder" else {})
