"""A fingerprint changes with everything that an example may come from, pictures and sounds included; a format is detected."""

import json
from pathlib import Path

import pytest
from written import put, source, touch, voc

from launcher.data import sources
from launcher.data.fit import detect

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
        is_media = changed.suffix in (".png", ".wav")
        changed.write_bytes(b"3" if is_media else changed.read_bytes() + b" ")  # a picture of the same size
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
    image, detection = ("labelled_image", "image_folder"), ("boxed_image", "coco", "voc")
    assert (
        detect(source(tmp_path / "labelled_image"), image) == "labelled_image"
    )  # though pictures lie in a folder there
    assert detect(source(tmp_path / "image_folder"), image) == "image_folder"
    put(tmp_path / "voc", "boxes.json", KINDS["coco"]["c.json"])
    assert detect(source(tmp_path / "voc"), detection) == "voc"
