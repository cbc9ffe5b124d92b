"""Real data sets come back from every format that holds them, and the boxes of a set that is both COCO and VOC are the same.

Needs the folder of data sets in LAUNCHER_DATA, and takes a minute.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from measured import DATA

from launcher.data import sources
from launcher.data.convert import LIKELIEST, convert
from launcher.data.target import Target
from launcher.schema import Source
from launcher.section import freeze

pytestmark = pytest.mark.skipif("LAUNCHER_DATA" not in os.environ, reason="LAUNCHER_DATA is not set")
BOXES = "det_bccd/train/images"
SETS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("det_bccd/train/instances.json", {"media": str(DATA / BOXES)}, ["voc", "jsonl", "parquet", "coco"]),
    ("qa_cmrc2018_zh/train.json", {}, ["jsonl", "squad", "parquet", "squad"]),
    ("qa_xquad_en/train.json", {}, ["jsonl", "squad"]),
    ("tok_wnut17/train.conll", {}, ["jsonl", "parquet", "conllu", "conll"]),
    ("tok_ud_en_ewt/train.conllu", {}, ["jsonl", "conll", "conllu"]),
    ("cls_banking77/train.csv", {"columns": {"label": "category"}}, ["parquet", "jsonl", "csv"]),
    ("cls_sst2/train.tsv", {"header": ["label", "text"]}, ["csv", "parquet", "tsv"]),
    ("cls_agnews/train.csv", {"header": ["label", "text", "text_pair"]}, ["parquet", "csv"]),
    ("cls_chnsenticorp_zh/train.tsv", {"columns": {"text": "text_a"}}, ["csv", "jsonl", "tsv"]),
    (
        "cls_nlupp_multilabel/train.json",
        {"columns": {"label": "intents"}, "defaults": {"label": []}},
        ["csv", "parquet"],
    ),
    ("mt_multi30k_en_de/train.jsonl", {"columns": {"source": "en", "target": "de"}}, ["json", "parquet", "csv"]),
    ("tool_glaive_en/train.json", {"columns": {"messages": "conversations"}}, ["parquet", "jsonl"]),
    ("img_cifar10/train", {}, ["csv", "parquet", "image_folder"]),
    ("seg_nuclei/train", {"columns": {"mask": "masks_3class"}}, ["jsonl", "mask_folder"]),
    ("aud_fsdd/train", {}, ["parquet", "audio_folder"]),
]


def examples(source: Source, by_content: bool) -> list[dict[str, Any]]:
    """Without the ids that rows have from their places; with the bytes of files where these are copied."""
    found = []
    for where, row in sources.examples(source, [source.format] if source.format else LIKELIEST, misplaced=True):
        found.append({name: value for name, value in row.items() if name != "id" or value != where})
        for name in {"image", "mask", "audio"} & set(row) if by_content else ():
            found[-1][name] = Path(row[name]).read_bytes()
    return found


@pytest.mark.parametrize(("path", "keys", "formats"), SETS, ids=[path for path, _, _ in SETS])
def test_the_same_after_every_step(path: str, keys: dict[str, Any], formats: list[str], tmp_path: Path) -> None:
    source = Source.model_validate(freeze({"path": str(DATA / path), **keys}))
    wanted = [examples(source, by_content) for by_content in (False, True)]
    copied = False
    for number, to in enumerate(formats):
        suffix = {"squad": ".json", "coco": ".json"}.get(to, "" if "folder" in to or to == "voc" else f".{to}")
        outcome = convert([source], LIKELIEST, Target(to, tmp_path / f"{number}{suffix}"))
        assert not outcome.tally.lost and not outcome.skipped
        source, copied = outcome.source, copied or to in ("image_folder", "mask_folder")
        assert examples(source, copied) == wanted[copied], to


def test_coco_and_voc_of_the_same_boxes() -> None:
    coco = Source.model_validate(freeze({"path": str(DATA / SETS[0][0]), "format": "coco", **SETS[0][1]}))
    voc = Source.model_validate({"path": str(DATA / "det_bccd/train"), "format": "voc"})
    assert examples(coco, True) == examples(voc, True)
