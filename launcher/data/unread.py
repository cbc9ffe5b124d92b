"""What data holds beside what is read of it: columns of rows, and the parts of files of a layout that no task has a use for."""

import xml.etree.ElementTree as xml
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from launcher.data import sources
from launcher.data.fit import detect
from launcher.data.formats import FORMATS
from launcher.data.formats.layout import files_below
from launcher.data.formats.tokens import FORM, UPOS, WORD_ID
from launcher.data.readers import json_of
from launcher.schema import Source

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")


def unread(source: Source, formats: tuple[str, ...], kind: str) -> Counter[str]:
    """{what is not read: how often it is there}. `kind`: the format of rows that the source turned out to have."""
    name = detect(source, formats) or kind
    found = Counter({f"column {column!r}": count for column, count in sources.unread_columns(source, name).items()})
    look = LOOKS.get(name)
    for file in sources.files(source, FORMATS[name].layout) if look else ():
        found.update(look(file, source) if look else ())
    return found


def _conll(path: Path, source: Source) -> Iterator[str]:
    chosen = {int(source.columns.get("tokens", 0)), int(source.columns.get("tags", -1))}
    for line in _lines(path):
        width = len(line.split("\t") if "\t" in line else line.split())
        left = set(range(width)) - {place % width for place in chosen}
        yield from (f"column {place}" for place in sorted(left) if not line.startswith("# "))


def _conllu(path: Path, source: Source) -> Iterator[str]:
    chosen = {0, int(source.columns.get("tokens", FORM)), int(source.columns.get("tags", UPOS))}
    for line in _lines(path):
        columns = line.split("\t")
        if line.startswith("#"):
            yield "comments"
        elif not WORD_ID.fullmatch(columns[0]):
            yield "multiword tokens and empty nodes"
        else:
            named = zip(CONLLU_COLUMNS, columns, strict=False)
            yield from (f"column {name}" for i, (name, cell) in enumerate(named) if i not in chosen and cell != "_")


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as lines:
        yield from (line.rstrip("\n") for line in lines if line.strip())


def _squad(path: Path, source: Source) -> Iterator[str]:
    for article in _items(json_of(path), "data"):
        yield from _beside(article, {"paragraphs"}, "an article")
        for paragraph in _items(article, "paragraphs"):
            yield from _beside(paragraph, {"context", "qas"}, "a paragraph")
            for question in _items(paragraph, "qas"):
                yield from _beside(question, {"id", "question", "answers", "is_impossible"}, "a question")


def _coco(path: Path, source: Source) -> Iterator[str]:
    whole = json_of(path)
    yield from _beside(whole, {"images", "annotations", "categories"}, "the file")
    for key, known in COCO_KEYS.items():
        for item in _items(whole, key):
            yield from _beside(item, known, key)


COCO_KEYS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd"},
    "categories": {"id", "name"},
}


def _voc(path: Path, source: Source) -> Iterator[str]:
    for file in files_below(path, [".xml"])[0]:
        try:
            root = xml.parse(file).getroot()
        except xml.ParseError:  # the reader names it
            continue
        yield from (f"{item.tag} of the picture" for item in root if item.tag not in ("filename", "size", "object"))
        inner = (item.tag for one in root.findall("object") for item in one)
        yield from (f"{tag} of an object" for tag in inner if tag not in ("name", "bndbox"))


def _items(value: Any, key: str) -> Iterable[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else ()


def _beside(value: Any, known: set[str], what: str) -> Iterator[str]:
    for name, one in value.items() if isinstance(value, dict) else ():
        if name not in known and one not in (None, "", [], {}):
            yield f"{name} of {what}"


LOOKS: dict[str, Callable[[Path, Source], Iterator[str]]] = {
    "conll": _conll,
    "conllu": _conllu,
    "squad": _squad,
    "coco": _coco,
    "voc": _voc,
}
