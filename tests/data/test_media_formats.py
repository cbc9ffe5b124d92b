"""Pictures, masks and sounds: every layout gives what was put there, and a file that is missing is named."""

from pathlib import Path
from typing import Any

import pytest
from written import put, read, rows, spoiled, touch

from launcher.data.formats.media import media_digest

# --- rows that name files ---------------------------------------------------------------------------------------------


def test_names_are_relative_to_the_data_file_or_to_media(tmp_path: Path) -> None:
    touch(tmp_path, "here/a.png", "there/a.png")
    path = put(
        tmp_path, "here/a.jsonl", [{"image": "a.png", "label": 1}, {"image": f"{tmp_path}/there/a.png", "label": 1}]
    )
    here, there = str(tmp_path / "here/a.png"), str(tmp_path / "there/a.png")
    assert [row["image"] for row in rows(path, "labelled_image")] == [here, there]
    assert [row["image"] for row in rows(path, "labelled_image", media=str(tmp_path / "there"))] == [there, there]


def test_bytes_are_passed_on_as_bytes(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    touch(tmp_path, "a.png")
    cells = [{"bytes": b"x", "path": "gone.png"}, {"bytes": None, "path": "a.png"}]
    table = pyarrow.Table.from_pylist([{"image": cell, "label": 0} for cell in cells])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [row["image"] for row in rows(tmp_path / "a.parquet", "labelled_image")] == [b"x", str(tmp_path / "a.png")]


@pytest.mark.parametrize("cell", ["gone.png", "", " ", None, 3, [], {}, {"bytes": None, "path": None}, "."])
@pytest.mark.parametrize(
    ("name", "column", "rest"),
    [
        ("labelled_image", "image", {"label": 0}),
        ("masked_image", "mask", {"image": "a"}),
        ("labelled_audio", "audio", {"label": 0}),
    ],
)
def test_a_cell_that_names_no_file_is_refused(cell: Any, name: str, column: str, rest: Any, tmp_path: Path) -> None:
    touch(tmp_path, "a")
    good = {**rest, column: "a"}
    found, errors = spoiled(put(tmp_path, "a.jsonl", [good, {**rest, column: cell}, good]), name)
    assert len(found) == 2 and [error.where for error in errors] == [f"{tmp_path}/a.jsonl:2"]


def test_a_name_that_is_not_utf_8_is_named_in_a_way_that_can_be_printed(tmp_path: Path) -> None:
    touch(tmp_path, "red/caf\udce9.png", "r\udce9d/2.png", "red/3.png")
    found, errors = spoiled(tmp_path, "image_folder")
    assert [Path(row["image"]).name for row in found] == ["3.png"]
    names = [f"{tmp_path}/red/caf\\udce9.png", f"{tmp_path}/r\\udce9d/2.png"]
    assert [str(error) for error in errors] == [
        f"{name}: the name {name} is not UTF-8; rename the file or its folder" for name in names
    ]
    assert media_digest([tmp_path / "red/caf\udce9.png", Path("no\ud83d name")], tmp_path).startswith("2 ")


def test_pictures_of_the_hub_come_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    listed = datasets.Dataset.from_dict({"image": [{"bytes": b"no picture", "path": None}], "label": [3]}, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: listed)
    assert read(Path("owner/name"), "labelled_image") == [
        ("owner/name train row 1", {"image": b"no picture", "label": 3})
    ]


# --- folders of classes -----------------------------------------------------------------------------------------------


def test_an_image_folder_is_its_class_folders_sorted(tmp_path: Path) -> None:
    touch(
        tmp_path, "cat/2.JPG", "cat/1.png", "ant/x/3.jpeg", ".hidden/4.png", "cat/.5.png", "cat/Thumbs.db", "notes.txt"
    )
    found = rows(tmp_path, "labelled_image", "image_folder")
    assert [(Path(row["image"]).name, row["label"]) for row in found] == [
        ("3.jpeg", "ant"),
        ("1.png", "cat"),
        ("2.JPG", "cat"),
    ]


def test_files_that_are_no_pictures_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from launcher import log

    log.set_up(0)
    touch(tmp_path, "cat/1.png", "cat/Thumbs.db", "notes.txt")
    assert len(rows(tmp_path, "image_folder")) == len(rows(tmp_path, "image_folder")) == 1
    assert capsys.readouterr().out.count("2 files are left out, Thumbs.db for one") == 1


def test_a_link_to_a_folder_that_is_read_anyway_gives_no_picture_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from launcher import log

    log.set_up(0)
    touch(tmp_path, "train/blue/1.png", "train/red/2.png", "elsewhere/3.png", "train/.store/4.png")
    links = {"blue/up": "..", "green": "red", "red/top": "../..", "yellow": "../elsewhere", "white": ".store"}
    for link, target in links.items():
        (tmp_path / "train" / link).symlink_to(target, target_is_directory=True)
    found = rows(tmp_path / "train", "image_folder")
    assert [(Path(row["image"]).name, row["label"]) for row in found] == [
        ("1.png", "blue"),
        ("2.png", "red"),
        ("4.png", "white"),
        ("3.png", "yellow"),
    ]
    said = capsys.readouterr().out
    assert all(f"{tmp_path}/train/{link} is left out" in said for link in ("blue/up", "green", "red/top"))


def test_a_file_that_is_not_there_is_named_with_what_can_be_done(tmp_path: Path) -> None:
    touch(tmp_path, "red/1.png")
    (tmp_path / "red/2.png").symlink_to("gone.png")
    found, errors = spoiled(tmp_path, "image_folder")
    link = f"{tmp_path}/red/2.png"
    assert len(found) == 1 and [str(error) for error in errors] == [
        f"{link}: {link} is a link to {tmp_path}/red/gone.png, which is no file; put the file there or remove the link"
    ]
    path = put(tmp_path, "a.jsonl", [{"image": name, "label": 1} for name in ("gone.png", f"{tmp_path}/gone.png")])
    relative, absolute = map(str, spoiled(path, "labelled_image")[1])
    assert relative == f"{path}:1: there is no file {tmp_path}/gone.png; names are relative to data.*.media"
    assert absolute == f"{path}:2: there is no file {tmp_path}/gone.png"


def test_a_picture_outside_of_the_classes_has_no_label(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "cat/2.png")
    found, errors = spoiled(tmp_path, "image_folder")
    assert len(found) == 1 and str(errors[0]).startswith(f"{tmp_path}/1.png: stands in no class folder")
    assert [sorted(row) for row in rows(tmp_path, "image_folder", labelled=False)] == [["image"], ["image", "label"]]


def test_an_audio_folder_has_classes_or_a_list(tmp_path: Path) -> None:
    touch(tmp_path, "yes/1.wav", "no/2.flac")
    assert [row["label"] for row in rows(tmp_path, "audio_folder")] == ["no", "yes"]
    listed = put(
        tmp_path, "metadata.csv", "\ufefffile_name,label,speaker\nyes/1.wav,1,a\ngone.wav,0,b\nno/2.flac,0,b\n"
    )
    found, errors = spoiled(tmp_path, "labelled_audio", "audio_folder")
    assert [(Path(row["audio"]).name, row["label"]) for row in found] == [("1.wav", "1"), ("2.flac", "0")]
    assert str(errors[0]).startswith(f"{listed}:3: there is no file {tmp_path}/gone.wav")
    assert spoiled(tmp_path, "audio_folder", columns={"label": "speaker"})[0][1]["label"] == "b"


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masks_are_paired_by_stem(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.1.jpg", "images/c.jpg", "masks/a.png", "masks/b.1.png", "masks/z.png")
    touch(tmp_path, "other/a.png", "other/b.1.png", "other/c.png")
    found, errors = spoiled(tmp_path, "masked_image", "mask_folder")
    assert [(Path(row["image"]).name, Path(row["mask"]).name) for row in found] == [
        ("a.jpg", "a.png"),
        ("b.1.jpg", "b.1.png"),
    ]
    assert [str(error) for error in errors] == [f"{tmp_path}/images/c.jpg: has no mask c.* in {tmp_path}/masks"]
    assert len(rows(tmp_path, "mask_folder", columns={"mask": "other"})) == 3
    assert [sorted(row) for row in rows(tmp_path, "mask_folder", labelled=False)][2] == ["image"]


def test_two_masks_for_a_picture_are_one_too_many(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "masks/a.bmp", "images/b.jpg", "images/b.png", "masks/b.png")
    found, errors = spoiled(tmp_path, "mask_folder")
    assert found == [] and len(errors) == 2
