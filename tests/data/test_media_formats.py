"""Pictures, boxes, masks and sounds: every layout gives what was put there, and a file that is missing is named."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from written import put, read, rows, source, spoiled

from launcher.data import sources
from launcher.data.fit import detect
from launcher.errors import DataError

DETECTION = ("boxed_image", "coco", "voc")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        put(folder, name, name.encode())


def voc(filename: str, *objects: tuple[str, tuple[Any, ...]]) -> str:
    sides = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, corners, strict=True))
        + "</bndbox></object>"
        for name, corners in objects
    )
    return f"<annotation><filename>{filename}</filename>{inner}</annotation>"


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


# --- boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "labels", "says"),
    [
        ([[1, 2, 3]], ["a"], "box 0 must be four finite numbers"),
        ([[1, 2, 3, 4], [1, 2, 3, "4"]], ["a", "b"], "box 1 must be four"),
        ([[1, 2, 3, float("nan")]], ["a"], "box 0 must be four"),
        ([[1, 2, 3, True]], ["a"], "box 0 must be four"),
        ([1, 2, 3, 4], ["a"], "box 0 must be four"),
        ([[1, 2, 3, 4]], [], "1 boxes and 0 labels"),
        ([[1, 2, 3, 4]], [None], "label 0"),
        (None, [], "column 'boxes' must be a list, not empty"),
    ],
)
def test_boxes_that_are_none(boxes: Any, labels: Any, says: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    path = put(tmp_path, "a.jsonl", [{"image": "a.png", "boxes": boxes, "labels": labels}])
    with pytest.raises(DataError, match=says):
        rows(path, "boxed_image")


def made(folder: Path, draw: random.Random) -> list[dict[str, Any]]:
    """The same random boxes as COCO and as VOC, beside their pictures; as they must be read."""
    names = {3: "cat", 7: "dog", 90: "ant"}
    images, annotations, wanted = [], [], []
    for number in range(20):
        touch(folder, f"images/{number:02}.jpg")
        images.append({"id": 100 - number, "file_name": f"{number:02}.jpg"})
        ids = draw.choices(list(names), k=draw.randint(0, 4))
        boxes = [[draw.randint(0, 9), draw.randint(0, 9), draw.randint(1, 9), draw.randint(1, 9)] for _ in ids]
        for category, box in zip(ids, boxes, strict=True):
            annotations.append({"image_id": 100 - number, "category_id": category, "bbox": box, "iscrowd": 0})
        corners = [(names[i], (x, y, x + w, y + h)) for i, (x, y, w, h) in zip(ids, boxes, strict=True)]
        put(folder, f"xml/{number:02}.xml", voc(f"{number:02}.jpg", *corners))
        image = str(folder / "images" / f"{number:02}.jpg")
        wanted.append({"image": image, "boxes": boxes, "labels": [names[i] for i in ids]})
    draw.shuffle(annotations)
    crowd = {"image_id": 100, "category_id": 3, "bbox": [0, 0, 1, 1], "iscrowd": 1}
    annotations = [{**one, "id": i} for i, one in enumerate([*annotations, crowd], 1)]
    categories = [{"id": i, "name": name} for i, name in names.items()]
    put(folder, "boxes.json", {"images": images, "annotations": annotations, "categories": categories})
    return wanted


def in_any_order(examples: list[dict[str, Any]]) -> list[Any]:
    return [(row["image"], sorted(zip(row["labels"], row["boxes"], strict=True))) for row in examples]


def test_coco_and_voc_hold_the_same_boxes(tmp_path: Path) -> None:
    wanted = made(tmp_path, random.Random(0))
    assert rows(tmp_path, *DETECTION) == rows(tmp_path / "xml", *DETECTION) == wanted
    found = rows(tmp_path / "boxes.json", *DETECTION, media=str(tmp_path / "images"))
    assert in_any_order(found) == in_any_order(wanted)
    assert min(len(row["boxes"]) for row in found) == 0


def test_coco_is_what_pycocotools_finds(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    made(tmp_path, random.Random(1))
    api = coco.COCO(str(tmp_path / "boxes.json"))
    found = rows(tmp_path / "boxes.json", "coco", media=str(tmp_path / "images"))
    for row, image in zip(found, api.dataset["images"], strict=True):
        annotations = api.loadAnns(api.getAnnIds(imgIds=image["id"], iscrowd=False))
        assert row["boxes"] == [one["bbox"] for one in annotations]
        assert row["labels"] == [api.cats[one["category_id"]]["name"] for one in annotations]


def broken_coco(folder: Path, **changes: Any) -> Path:
    touch(folder, "a.jpg", "b.jpg")
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    return put(folder, "a.json", {key: value for key, value in {**whole, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (
            {"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]},
            r"image 1 \(a\.jpg\): the annotation 5 has no category",
        ),
        ({"image_id": 1, "category_id": 1}, "the annotation 5 has no bbox"),
        ({"image_id": 1, "category_id": 1, "bbox": [0, 0, 1]}, "box 0 must be four"),
    ],
)
def test_a_broken_annotation_spoils_its_image(annotation: dict[str, Any], says: str, tmp_path: Path) -> None:
    found, errors = spoiled(broken_coco(tmp_path, annotations=[{"id": 5, **annotation}]), "coco")
    assert [Path(row["image"]).name for row in found] == ["b.jpg"]
    assert len(errors) == 1 and errors[0].where.startswith(f"{tmp_path}/a.json image 1")
    with pytest.raises(DataError, match=says):
        rows(tmp_path / "a.json", "coco")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"annotations": [{"id": 5, "image_id": 9}]}, r"annotations\[0\]: the image 9 is not in the file"),
        ({"images": [{"id": 1}, {"id": 1}]}, r"images\[1\]: the id 1 is another's"),
        ({"categories": [{"name": "cat"}]}, r"categories\[0\]: has no id"),
        ({"annotations": None}, "no list of annotations"),
    ],
)
def test_a_broken_coco_file_is_no_matter_of_rows(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        spoiled(broken_coco(tmp_path, **changes), "coco")


def test_coco_without_annotations_is_for_prediction(tmp_path: Path) -> None:
    path = broken_coco(tmp_path, annotations=None, categories=None)
    assert [sorted(row) for row in rows(path, "coco", labelled=False)] == [["image"], ["image"]]


LAUGHS = '<!DOCTYPE x [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<annotation>", "a.xml: not XML"),
        ("", "a.xml: not XML"),
        (LAUGHS + "]><annotation><filename>&a9;</filename></annotation>", "a.xml: not XML: .*amplification"),
        (voc("gone.jpg").replace("gone", "b/../c"), "a.xml: no picture c.jpg in "),
        (
            voc(
                "x.jpg",
                ("cat", (1, 2, 3, "")),
            ),
            r"a.xml object\[0\]: the bndbox must have four numbers",
        ),
        (
            voc(
                "x.jpg",
                ("", (1, 2, 3, 4)),
            ),
            r"a.xml object\[0\]: has no name",
        ),
        (
            voc(
                "x.jpg",
                ("cat", (1, 2, 3, "inf")),
            ),
            "box 0 must be four finite",
        ),
    ],
)
def test_a_broken_xml_file_spoils_its_picture(content: str, says: str, tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "z.jpg")
    put(tmp_path, "a.xml", content)
    put(tmp_path, "z.xml", voc("another name.jpg"))  # the picture is called as the file is; no objects is fine
    found, errors = spoiled(tmp_path, "voc")
    assert found == [{"image": str(tmp_path / "z.jpg"), "boxes": [], "labels": []}]
    assert len(errors) == 1 and re.search(says, str(errors[0]))


# --- fingerprint ------------------------------------------------------------------------------------------------------

KINDS = {
    "labelled_image": {"a.jsonl": [{"image": "p/a.png", "label": 1}], "p/a.png": "1"},
    "image_folder": {"cat/a.png": "1", "dog/b.png": "1"},
    "masked_image": {"a.csv": "image,mask\nb.png,p/a.png\n", "b.png": "1", "p/a.png": "1"},
    "mask_folder": {"images/a.png": "1", "masks/a.png": "2"},
    "labelled_audio": {"a.json": [{"audio": "p/a.png", "label": 1}], "p/a.png": "1"},
    "audio_folder": {"metadata.csv": "file_name,label\na.wav,1\n", "a.wav": "1"},
    "coco": {
        "c.json": {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []},
        "a.png": "1",
    },
    "voc": {"a.xml": voc("a.png"), "a.png": "1"},
    "conll": {"a.conll": "a O\n"},
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_changes_with_every_file_and_only_then(kind: str, told: bool, tmp_path: Path) -> None:
    def of(folder: Path) -> list[str]:
        for name, content in KINDS[kind].items():
            if not (folder / name).exists():
                put(folder, name, content)
        return sources.fingerprint(source(folder, **({"format": kind} if told else {})))

    first = of(tmp_path / "first")
    assert of(tmp_path / "same") == of(tmp_path / "same") == first
    (tmp_path / "same" / "readme").write_text("not data")
    assert of(tmp_path / "same") == first
    for number, name in enumerate(KINDS[kind]):
        changed = put(tmp_path / str(number), name, KINDS[kind][name])
        changed.write_bytes(changed.read_bytes() + b" ")
        assert of(tmp_path / str(number)) != first, name


def test_the_fingerprint_knows_how_the_files_are_read_and_what_is_missing(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"image": "a.png", "label": 1}])
    prints = [sources.fingerprint(source(path, **more)) for more in ({}, {"defaults": {"label": 1}})]
    touch(tmp_path, "a.png", "b/a.png")
    prints += [sources.fingerprint(source(path, **more)) for more in ({}, {"media": str(tmp_path / "b")})]
    assert len(set(map(json.dumps, prints))) == 4


def test_a_renamed_class_is_another_fingerprint(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png")
    before = sources.fingerprint(source(tmp_path))
    (tmp_path / "cat").rename(tmp_path / "dog")
    assert sources.fingerprint(source(tmp_path)) != before


def test_what_lies_there_says_which_format_it_is(tmp_path: Path) -> None:
    for kind, content in KINDS.items():
        for name, written in content.items():
            put(tmp_path / kind, name, written)
        assert detect(source(tmp_path / kind), [kind]) == kind
    image, detection = ("labelled_image", "image_folder"), DETECTION
    assert (
        detect(source(tmp_path / "labelled_image"), image) == "labelled_image"
    )  # though pictures lie in a folder there
    assert detect(source(tmp_path / "image_folder"), image) == "image_folder"
    put(tmp_path / "voc", "boxes.json", KINDS["coco"]["c.json"])
    assert detect(source(tmp_path / "voc"), detection) == "voc"
