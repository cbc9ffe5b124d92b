"""From every format to every other and back the examples are the same; what a format cannot hold is said, never lost in silence."""

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from converted import FITS, FOLDERS, MAKERS, alike, holdable, made, path_of, picture, run, seen
from tiny import full_disk
from written import put, rows, source, touch

from launcher.data import conversions, convert
from launcher.data.formats import FORMATS
from launcher.data.unread import unread
from launcher.data.writers import WRITERS, holding
from launcher.data.writers.writer import KINDS
from launcher.errors import DataError, EnvironmentProblem, LauncherError, RecipeError, StorageError

ROOT = Path(__file__).parent.parent.parent
PAIRS = [
    (kind, *pair)
    for kind in KINDS
    for pair in itertools.combinations_with_replacement(holding(kind), 2)  # there and back tries both ways
]


@pytest.mark.parametrize(("kind", "first", "second"), PAIRS, ids=lambda name: name)
def test_there_and_back_again(kind: str, first: str, second: str, tmp_path: Path) -> None:
    draw = random.Random(f"{kind} {first} {second}")
    given = holdable(kind, tmp_path, draw, (first, second))
    assert len(given) > 8, "the test would say little"
    start = put(tmp_path, "start.jsonl", given)
    one = run(start, first, path_of(tmp_path, "one", first), (kind,))
    two = run(Path(one.source.path), second, path_of(tmp_path, "two", second), **keys(one))
    three = run(Path(two.source.path), first, path_of(tmp_path, "three", first), **keys(two))
    wanted = alike(rows(start, kind))
    assert seen(one) == wanted and seen(two) == wanted and seen(three) == wanted
    assert not (one.tally.lost or two.tally.lost or three.tally.lost)
    assert sorted(tmp_path.glob(".*")) == []


def keys(outcome: convert.Outcome) -> dict[str, Any]:
    return {"format": outcome.source.format, **({"media": outcome.source.media} if outcome.source.media else {})}


def test_every_kind_of_row_is_tried() -> None:
    assert set(MAKERS) == set(KINDS) == {kind for kind, _, _ in PAIRS}
    assert set(KINDS) == {name for name, known in FORMATS.items() if known.layout is None}


@pytest.mark.parametrize(
    ("kind", "to"), [(kind, to) for kind, to, other in PAIRS if to == other and to in FITS], ids=lambda name: name
)
def test_what_does_not_fit_is_refused_and_else_counted(kind: str, to: str, tmp_path: Path) -> None:
    """Rows that fit come through beside it, and nothing is written of a refusal."""
    given = made(kind, tmp_path, random.Random(0))
    if to == "image_folder":
        given = [
            {**row, "label": [*FOLDERS, "a/b", ".hidden", "x" * 300][number % 8]} for number, row in enumerate(given)
        ]
    fitting = [row for row in given if FITS[to](row)]
    start, path = put(tmp_path, "start.jsonl", given), path_of(tmp_path, "out", to)
    if len(fitting) == len(given):
        assert kind == "masked_image", "nothing of the other rows fits all formats"
        return
    with pytest.raises(DataError, match="cannot hold all") as refused:
        run(start, to, path, (kind,))
    assert not path.exists() and sorted(tmp_path.glob(".*")) == []
    outcome = run(start, to, path, (kind,), allow_loss=True)
    said = sum(count for what, (count, _) in outcome.tally.lost.items() if "order" not in what)
    assert said == len(given) - len(fitting) and all(
        str(first) in str(refused.value) for _, first in outcome.tally.lost.values()
    )
    kept = seen(outcome)
    assert all(row in kept for row in alike([row for row in rows(start, kind) if FITS[to](row)]))


def test_tokens_that_look_like_what_is_around_them(tmp_path: Path) -> None:
    """A mark of Windows programs at the beginning of the file, the beginning of a document, a comment, a number of a line."""
    odd = [["\ufeffa", "b"], ["#", "x"], ["# x", "y"], ["1", "2"], ["1-2", "_"], ["\u3000", "b"], ["a b", " "]]
    start = put(tmp_path, "start.jsonl", [{"tokens": tokens, "tags": ["O", "O"]} for tokens in odd])
    for to in ("conll", "conllu"):
        outcome = run(start, to, tmp_path / f"out.{to}")
        assert seen(outcome) == rows(start, "tagged_tokens") and not outcome.tally.changed
    second = put(
        tmp_path,
        "second.jsonl",
        [{"tokens": ["a", "-DOCSTART-"], "tags": ["O", "O"]}, {"tokens": ["b"], "tags": ["O"]}],
    )
    with pytest.raises(DataError, match="1 x rows that are left out: with the token -DOCSTART-"):
        run(second, "conll", tmp_path / "second.conll")
    assert seen(run(second, "conllu", tmp_path / "second.conllu")) == rows(second, "tagged_tokens")


def test_a_text_of_megabytes_passes(tmp_path: Path) -> None:
    """The csv module has a limit of its own, 131,072 characters."""
    start = put(tmp_path, "start.jsonl", [{"text": "x " * 1_000_000}])
    assert seen(run(start, "csv", tmp_path / "out.csv")) == rows(start, "text")


def test_lists_of_labels(tmp_path: Path) -> None:
    labels: list[Any] = [[], ["a"], ["q\"'", "[b]", "c,d"], ["\u2028", "\x7f\n", "é"], [1, 2], [True, "x"], [0.5]]
    start = put(tmp_path, "start.jsonl", [{"text": str(i), "label": label} for i, label in enumerate(labels)])
    wanted = alike(rows(start, "labelled_text"))
    for to in ("csv", "tsv", "parquet", "json"):
        assert seen(run(start, to, tmp_path / f"out.{to}")) == wanted, to


def test_labels_of_parquet_keep_their_type_where_all_have_one(tmp_path: Path) -> None:
    for labels, wanted in (
        ([3, -1], [3, -1]),
        ([True, False], [True, False]),
        ([1, 0.5], [1.0, 0.5]),
        ([1, "a"], ["1", "a"]),
    ):
        start = put(tmp_path, "start.jsonl", [{"text": "x", "label": label} for label in labels])
        run(start, "parquet", tmp_path / "out.parquet", overwrite=True)
        found = [row["label"] for row in rows(tmp_path / "out.parquet", "labelled_text")]
        assert [(type(one), one) for one in found] == [(type(one), one) for one in wanted]
    mixed = put(tmp_path, "mixed.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": ["a"]}])
    with pytest.raises(DataError, match="one type a column"):
        run(mixed, "parquet", tmp_path / "mixed.parquet")


def test_a_pair_that_some_rows_lack(tmp_path: Path) -> None:
    start = put(tmp_path, "start.jsonl", [{"text": "a", "text_pair": "b", "label": 1}, {"text": "c", "label": 2}])
    with pytest.raises(DataError, match=r"1 x rows without text_pair.*start.jsonl:2"):
        run(start, "csv", tmp_path / "out.csv")
    assert seen(run(start, "parquet", tmp_path / "out.parquet")) == alike(rows(start, "labelled_text"))


def test_conversations_that_parquet_changes_are_refused(tmp_path: Path) -> None:
    calls = [
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}
        for arguments in ({"a": 1}, {"b": "x"})
    ]
    ask = {"role": "user", "content": "?"}
    numbers = [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": one}}]} for one in (1, 0.5)]
    orders = [
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": one}]}
        for one in ({"a": 1, "b": 2}, {"b": 1, "a": 2})
    ]
    for name, given in (("numbers", numbers), ("orders", orders)):
        other = put(tmp_path, f"{name}.jsonl", [{"messages": [ask, call]} for call in given])
        with pytest.raises(DataError, match="1 x values inside of turns"):
            run(other, "parquet", tmp_path / "out.parquet")
    start = put(tmp_path, "start.jsonl", [{"messages": [ask, call]} for call in calls])
    with pytest.raises(DataError, match="2 x values inside of turns"):
        run(start, "parquet", tmp_path / "out.parquet")
    assert seen(run(start, "json", tmp_path / "out.json")) == rows(start, "messages")
    turns = put(tmp_path, "turns.jsonl", [{"prompt": [ask], "completion": [{"role": "assistant", "content": "!"}]}])
    for to in ("parquet", "json"):
        assert seen(run(turns, to, tmp_path / f"turns.{to}")) == rows(turns, "prompt_completion")
    with pytest.raises(DataError, match="cells with lists of turns"):
        run(turns, "csv", tmp_path / "turns.csv")


def test_squad_says_its_version_and_has_ids_and_keeps_misplaced_answers(tmp_path: Path) -> None:
    answered = {"question": "?", "context": "a b", "answers": [{"text": "b", "answer_start": 2}]}
    moved = {**answered, "id": "m", "answers": [{"text": "b", "answer_start": 0}]}
    for given, version in (([answered, moved], "1.1"), ([answered, {**moved, "answers": []}], "2.0")):
        start = put(tmp_path, "start.jsonl", given)
        outcome = run(start, "squad", tmp_path / "out.json", overwrite=True)
        written = json.loads((tmp_path / "out.json").read_text())
        questions = [one for paragraph in written["data"][0]["paragraphs"] for one in paragraph["qas"]]
        assert written["version"] == version and [one["id"] for one in questions] == ["row-1", "m"]
        assert len(written["data"][0]["paragraphs"]) == 1
        assert [one.get("is_impossible") for one in questions] == ([None] * 2 if version == "1.1" else [False, True])
        assert outcome.facts.misplaced == (version == "1.1")
        assert [count for count, _ in outcome.tally.changed.values()] == [1]


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_the_corners_of_voc_are_those_of_coco(tmp_path: Path) -> None:
    """Whole numbers, fractions, and the border: x and y stay, no pixel is added or taken."""
    put(tmp_path, "a.png", picture(40, 30))
    boxes = [[0, 0, 40, 30], [1, 2, 3, 4], [0.5, 0.25, 39.5, 29.75], [10.1, 20.2, 0.3, 0.7]]
    coco = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 3, "name": "x"}],
    }
    coco["annotations"] = [{"id": i, "image_id": 7, "category_id": 3, "bbox": box} for i, box in enumerate(boxes)]
    voc = run(put(tmp_path, "c.json", coco), "voc", tmp_path / "voc")
    text = (tmp_path / "voc" / "Annotations" / "a.xml").read_text()
    corners = [[float(side) for side in re.findall(r"<[xy]m\w+>([^<]+)", one)] for one in text.split("<object>")[1:]]
    assert corners == [[x, y, x + w, y + h] for x, y, w, h in boxes]
    assert seen(voc)[0]["boxes"] == boxes and seen(voc)[0]["size"] == [40, 30]
    assert list(voc.tally.changed.values())[0][0] == 1, "the last box is rounded, the others are not"


def test_a_size_that_is_not_said_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6
    put(tmp_path, "a.jpg", picture(40, 30, format="JPEG", exif=turned))
    put(tmp_path, "b.jpg", picture(40, 30, format="JPEG"))
    touch(tmp_path, "broken.png")
    given = [{"image": name, "boxes": [[1, 1, 2, 2]], "labels": ["x"]} for name in ("a.jpg", "broken.png", "b.jpg")]
    start = put(tmp_path, "start.jsonl", given)
    for to in ("coco", "voc"):
        with pytest.raises(DataError, match=r"start.jsonl:2: the picture cannot be read"):
            run(start, to, path_of(tmp_path, "out", to))
        outcome = run(start, to, path_of(tmp_path, "out", to), skip=True)
        assert [row["size"] for row in seen(outcome)] == [[30, 40], [40, 30]] and len(outcome.skipped) == 1
        assert [Path(row["image"]).name for row in rows(Path(outcome.source.path), to, **media(outcome))] == [
            "a.jpg",
            "b.jpg",
        ]


def media(outcome: convert.Outcome) -> dict[str, Any]:
    return {"media": outcome.source.media} if outcome.source.media else {}


# --- pictures and sounds ----------------------------------------------------------------------------------------------


def test_names_lead_from_the_output_to_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved together they stay together; through a link they are absolute."""
    put(tmp_path, "set/pictures/a.png", b"a")
    start = put(tmp_path, "set/start.jsonl", [{"image": "pictures/a.png", "label": "x"}])
    run(start, "csv", tmp_path / "set" / "new" / "out.csv")
    assert (tmp_path / "set/new/out.csv").read_text() == "image,label\n../pictures/a.png,x\n"
    (tmp_path / "set").rename(tmp_path / "moved")
    assert rows(tmp_path / "moved/new/out.csv", "labelled_image")[0]["image"] == str(tmp_path / "moved/pictures/a.png")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    run(tmp_path / "moved/start.jsonl", "csv", tmp_path / "link" / "out.csv")
    assert str(tmp_path / "moved/pictures/a.png") in (tmp_path / "link/out.csv").read_text()


def test_copies_have_names_of_their_own(tmp_path: Path) -> None:
    """Two files of one name, one picture in two rows, bytes without a name, a file without a suffix."""
    import pyarrow
    import pyarrow.parquet

    one, other = (put(tmp_path, f"{name}/a.png", name.encode()) for name in ("one", "other"))
    bare = put(tmp_path, "bare", picture(9, 9))
    cells = [{"bytes": None, "path": str(path)} for path in (one, other, one, bare)] + [
        {"bytes": picture(9, 9, 1), "path": None}
    ]
    table = pyarrow.Table.from_pylist([{"image": cell, "label": "x"} for cell in cells])
    pyarrow.parquet.write_table(table, tmp_path / "start.parquet")
    wanted = alike(rows(tmp_path / "start.parquet", "labelled_image"))
    with pytest.raises(DataError, match="hold pictures or sounds themselves.*--copy-media"):
        run(tmp_path / "start.parquet", "jsonl", tmp_path / "out.jsonl")
    assert seen(run(tmp_path / "start.parquet", "parquet", tmp_path / "out.parquet")) == wanted
    outcome = run(tmp_path / "start.parquet", "jsonl", tmp_path / "out.jsonl", copy_media=True)
    one.write_bytes(b"changed")
    assert seen(outcome) == wanted
    assert sorted(path.name for path in (tmp_path / "out_jsonl_media").iterdir()) == [
        "000002.png",
        "000004.png",
        "000005.png",
        "a.png",
    ]
    assert seen(run(tmp_path / "start.parquet", "image_folder", tmp_path / "folder"))[0] == {
        "image": b"changed",
        "label": "x",
    }


def test_pictures_and_masks_of_one_name_are_copied_apart(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/a.png", "images/b.png", "masks/b.png")
    outcome = run(tmp_path, "jsonl", tmp_path.with_name("masks_out") / "out.jsonl", copy_media=True)
    assert seen(outcome) == [{"image": f"images/{x}.png".encode(), "mask": f"masks/{x}.png".encode()} for x in "ab"]
    copied = sorted(str(path.relative_to(path.parents[1])) for path in Path(outcome.source.path).parent.rglob("*.png"))
    assert copied == ["images/a.png", "images/b.png", "masks/a.png", "masks/b.png"]


def test_pictures_that_differ_in_their_suffix_alone_get_numbers_beside_their_masks(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png", "m/1.png", "m/2.png")
    given = [{"image": f"a.{suffix}", "mask": f"m/{number}.png"} for number, suffix in ((1, "jpg"), (2, "png"))]
    start = put(tmp_path, "start.jsonl", given)
    assert seen(run(start, "mask_folder", tmp_path / "out")) == alike(rows(start, "masked_image"))
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["000001.jpg", "000002.png"]


def test_voc_names_one_folder_or_copies(tmp_path: Path) -> None:
    for name in ("one/a.png", "other/a.png"):
        put(tmp_path, name, picture(9, 9))
    given = [{"image": name, "boxes": [], "labels": []} for name in ("other/a.png", "one/a.png", "one/a.png")]
    start = put(tmp_path, "start.jsonl", given)
    with pytest.raises(DataError, match="several folders.*--copy-media"):
        run(start, "voc", tmp_path / "voc")
    outcome = run(start, "voc", tmp_path / "voc", copy_media=True)
    assert len(seen(outcome)) == 3 and sorted(path.name for path in (tmp_path / "voc/JPEGImages").iterdir()) == [
        "000002.png",
        "a.png",
    ]


def test_an_image_folder_that_changes_the_order_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    given = [{"image": f"{name}.png", "label": label} for name, label in zip("cab", "xyx", strict=True)]
    start = put(tmp_path, "start.jsonl", given)
    with pytest.raises(DataError, match="3 x the order of the rows"):
        run(start, "image_folder", tmp_path / "out")
    outcome = run(start, "image_folder", tmp_path / "out", allow_loss=True)
    assert [(row["label"], row["image"]) for row in seen(outcome)] == [
        ("x", b"c.png"),
        ("x", b"b.png"),
        ("y", b"a.png"),
    ]


# --- what is written, and when ----------------------------------------------------------------------------------------


def test_a_target_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    start = put(tmp_path, "start.csv", "text\na\n")
    path = put(tmp_path, "out.jsonl", "mine")
    with pytest.raises(EnvironmentProblem, match="is there already"):
        run(start, "jsonl", path)
    assert path.read_text() == "mine"
    run(start, "jsonl", path, overwrite=True)
    assert path.read_text() == '{"text": "a"}\n'
    touch(tmp_path, "a.png", "folder/old/b.png")
    pictures = put(tmp_path, "start.jsonl", [{"image": "a.png", "label": "x"}])
    run(pictures, "image_folder", tmp_path / "folder", overwrite=True)
    assert [str(file.relative_to(tmp_path)) for file in (tmp_path / "folder").rglob("*.png")] == ["folder/x/a.png"]
    with pytest.raises(EnvironmentProblem, match="is a folder"):
        run(start, "jsonl", put(tmp_path, "d.jsonl/x", "").parent, overwrite=True)


@pytest.mark.parametrize("name", ["start.csv", "new.csv"])
def test_what_is_read_is_not_written_over(name: str, tmp_path: Path) -> None:
    start = put(tmp_path, "data/start.csv", "text\na\n")
    given = start if name == "start.csv" else start.parent
    with pytest.raises(RecipeError, match="what is read"):
        run(given, "csv", tmp_path / "data" / name, overwrite=True)


def test_pictures_that_would_be_replaced_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "voc/JPEGImages/a.png", picture(9, 9))
    start = put(tmp_path, "start.jsonl", [{"image": "voc/JPEGImages/a.png", "boxes": [], "labels": []}])
    with pytest.raises(RecipeError, match="holds pictures"):
        run(start, "voc", tmp_path / "voc", overwrite=True)
    assert len(seen(run(start, "voc", tmp_path / "voc", overwrite=True, copy_media=True))) == 1


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    start = put(tmp_path, "start.jsonl", [{"text": "a" * 1000}] * 500)
    for to in ("jsonl", "csv", "parquet"):
        with full_disk(2_000), pytest.raises(StorageError):
            run(start, to, tmp_path / f"out.{to}")
    assert sorted(tmp_path.iterdir()) == [start]


@pytest.mark.parametrize("fault", ["a row fewer", "a row more", "another row", "an error"])
def test_what_is_read_back_otherwise_gets_no_name(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def write(given: Any, path: Path, facts: Any) -> None:
        examples = list(given)
        faults = {"a row fewer": examples[:-1], "a row more": [*examples, examples[0]], "another row": examples[::-1]}
        WRITERS["jsonl"].write(faults[fault], path, facts)

    monkeypatch.setitem(WRITERS, "json", replace(WRITERS["jsonl"], write=write))
    start = put(tmp_path, "start.csv", "text\na\nb\nc\n")
    with pytest.raises(KeyError if fault == "an error" else DataError):
        run(start, "json", tmp_path / "out.jsonl")
    assert sorted(tmp_path.iterdir()) == [start]


# --- what is read -----------------------------------------------------------------------------------------------------


def test_bad_rows_are_named_or_skipped_and_counted(tmp_path: Path) -> None:
    start = put(tmp_path, "start.csv", "text,label\na,1\nb\nc,2\n,\n")
    with pytest.raises(DataError, match="start.csv:3"):
        run(start, "jsonl", tmp_path / "out.jsonl")
    outcome = run(start, "jsonl", tmp_path / "out.jsonl", skip=True)
    assert [row["text"] for row in seen(outcome)] == ["a", "c"] and len(outcome.skipped) == 2
    bad = put(tmp_path, "bad.csv", "text,label\na\n")
    with pytest.raises(DataError, match=r"(?s)no row is left.*bad.csv:2"):
        run(bad, "csv", tmp_path / "out.csv", skip=True)


def test_a_date_is_located(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    import pyarrow.parquet

    turns = [{"role": "user", "content": "?", "at": datetime.date(2020, 1, 1)}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}]), tmp_path / "start.parquet")
    with pytest.raises(DataError, match="start.parquet row 1: holds what JSON has no word for"):
        run(tmp_path / "start.parquet", "jsonl", tmp_path / "out.jsonl")


def test_several_inputs_become_one_if_they_are_of_one_kind(tmp_path: Path) -> None:
    first = put(tmp_path, "a.csv", "text,label\na,1\n")
    second = put(tmp_path, "b.jsonl", [{"text": "b", "label": "2"}])
    outcome = run([first, second], "parquet", tmp_path / "out.parquet")
    assert seen(outcome) == [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]
    other = put(tmp_path, "c.jsonl", [{"source": "b", "target": "2"}])
    with pytest.raises(DataError, match="c.jsonl:1: is of source_target, and rows before are of labelled_text"):
        run([first, other], "jsonl", tmp_path / "out.jsonl")


def test_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows_there = [{"text": "a", "label": 0, "idx": 7}, {"text": "b", "label": 1, "idx": 8}]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(2), "idx": datasets.Value("int64")}
    )
    held = datasets.Dataset.from_list(rows_there, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name, split: held)
    outcome = run(Path("owner/name"), "csv", tmp_path / "out.csv", ("labelled_text",))
    assert seen(outcome) == [{"text": "a", "label": "0"}, {"text": "b", "label": "1"}]
    assert unread(source(Path("owner/name")), ("labelled_text",), "labelled_text") == {"column 'idx'": 2}


@pytest.mark.parametrize(
    ("to", "name", "says"),
    [
        ("cvs", "out.csv", "did you mean csv"),
        ("csv", "out.txt", "files that end with .csv"),
        ("conll", "out.conll", "cannot hold rows of labelled_text; use --to jsonl, json, parquet, csv, tsv"),
    ],
)
def test_what_cannot_be_is_refused(to: str, name: str, says: str, tmp_path: Path) -> None:
    start = put(tmp_path, "start.csv", "text,label\na,1\n")
    with pytest.raises(LauncherError, match=says):
        run(start, to, tmp_path / name)


def test_what_is_not_carried_over_is_counted(tmp_path: Path) -> None:
    conllu = "# text = a\n1\ta\tlemma\tNOUN\t_\t_\t0\t_\t_\t_\n1.1\tb\t_\tX\t_\t_\t_\t_\t_\t_\n\n"
    cases = {
        "a.csv": ("text,label,author\na,1,me\nb,2,\n", ["column 'author' (1 x)"]),
        "b.conllu": (conllu, ["comments (1 x)", "column LEMMA (1 x)", "column HEAD (1 x)", "empty nodes (1 x)"]),
        "c.conll": ("a\tx\tO\nb\ty\tO\n", ["column 1 (2 x)"]),
        "d.json": ({"data": [{"title": "t", "paragraphs": []}, {"title": "", "paragraphs": [
            {"context": "c", "qas": [{"id": "1", "question": "q", "answers": [], "plausible_answers": [1]}]}]}]},
            ["title of an article (1 x)", "plausible_answers of a question (1 x)"]),
    }  # fmt: skip
    for name, (content, said) in cases.items():
        start = put(tmp_path, name, content)
        found = unread(source(start), convert.LIKELIEST, "")
        lines = [f"{what} ({count} x)" for what, count in found.items()]
        assert len(lines) == len(said) and all(line.endswith(one) for line, one in zip(lines, said, strict=True)), lines


def test_the_table_is_up_to_date() -> None:
    assert (ROOT / "CONVERSIONS.md").read_text() == conversions.page(), "launcher convert --table > CONVERSIONS.md"
