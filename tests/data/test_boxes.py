"""COCO, VOC and rows give the same boxes, and what is wrong with one is told from what is wrong with a file."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from written import put, rows, spoiled, touch, voc

from launcher.errors import DataError

DETECTION = ("boxed_image", "coco", "voc")


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


def test_rows_may_say_the_size_of_the_picture(tmp_path: Path) -> None:
    """As COCO and VOC do; a column of another meaning is named, and can be called otherwise."""
    touch(tmp_path, "a.png")
    row = {"image": "a.png", "boxes": [], "labels": []}
    sizes: list[Any] = [[4, 3], None, [4, 3, 1], "4x3", [0, 1], [4.0, 3.0], 12]
    path = put(tmp_path, "a.jsonl", [{**row, "size": size} for size in sizes])
    found, errors = spoiled(path, "boxed_image")
    assert [one.get("size") for one in found] == [(4, 3), None]
    assert [error.where for error in errors] == [f"{path}:{line}" for line in range(3, 8)]
    assert all("'size' must be [width, height]" in str(error) for error in errors)
    assert len(rows(path, "boxed_image", columns={"size": "frame"})) == len(sizes)


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
        ({"image_id": 1, "category_id": [1], "bbox": [0, 0, 1, 1]}, "the annotation 5 has no category"),
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


@pytest.mark.parametrize("image", [9, [1], None])
def test_an_annotation_of_no_image_is_spoiled_alone(image: Any, tmp_path: Path) -> None:
    good = {"id": 6, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}
    found, errors = spoiled(broken_coco(tmp_path, annotations=[{**good, "id": 5, "image_id": image}, good]), "coco")
    assert [len(row["boxes"]) for row in found] == [0, 1]
    assert [str(error) for error in errors] == [
        f"{tmp_path}/a.json annotations[0]: the image {image} is not in the file"
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"annotations": [{"id": 5, "image_id": 1}] * 2}, r"annotations\[1\]: the id 5 is another's as well"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, r"categories\[1\]: the name a is another's"),
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
    whole = {**json.loads(path.read_text()), "annotations": None, "categories": None}
    assert len(rows(put(tmp_path, "a.json", whole), "coco", labelled=False)) == 2
    with pytest.raises(DataError, match=r"a\.json: not a COCO file: it holds no list of annotations"):
        rows(path, "coco")
    with pytest.raises(DataError, match=r"a\.json: not a COCO file: it holds no list of annotations"):
        rows(put(tmp_path, "a.json", {**whole, "annotations": {"id": 1}}), "coco", labelled=False)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(41, 31, (41, 31)), (41.0, "31", (41, 31)), (0, 0, None), (None, 31, None), ("", "x", None), ("nan", "inf", None)],
)
def test_the_size_that_a_file_says_goes_with_its_boxes(width: Any, height: Any, size: Any, tmp_path: Path) -> None:
    coco = broken_coco(tmp_path, images=[{"id": 1, "file_name": "a.jpg", "width": width, "height": height}])
    assert rows(coco, "coco")[0].get("size") == size
    said = f"<size><width>{width}</width><height>{height}</height></size></annotation>"
    put(tmp_path, "xml/a.xml", voc("a.jpg").replace("</annotation>", said))
    assert rows(tmp_path / "xml", "voc", media=str(tmp_path))[0].get("size") == size


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
