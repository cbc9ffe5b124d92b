"""The cache: never stale, never half, written by one."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data import prepare as module
from launcher.data.prepare import Columns, Joined, Prepared, Row, prepare
from launcher.errors import DataError

COLUMNS = Columns({"input_ids": "ints", "trained": "ints"}, length="input_ids")
INGREDIENTS: dict[str, Any] = {
    "source": [["sha of the data"], None, {"prompt": "q"}],
    "tokenizer": ["json", "{{ template }}", "</s>"],
    "options": ["causal_lm", 1024, "drop", None],
}


def random_rows(number: int, seed: int = 0) -> list[Row]:
    chance = random.Random(seed)
    rows = []
    for _ in range(number):
        ids = [chance.randrange(200_000) for _ in range(chance.randint(1, 9))]
        rows.append({"input_ids": ids, "trained": [chance.randint(0, 1) for _ in ids]})
    return rows


def made(rows: list[Row], folder: Path, ingredients: dict[str, Any] = INGREDIENTS) -> Prepared:
    def make_rows(counts: dict[str, int]) -> Iterator[Row]:
        for row in rows:
            counts["rows kept"] = counts.get("rows kept", 0) + 1
            yield row

    return prepare(ingredients, make_rows, folder, COLUMNS)


def never(_: dict[str, int]) -> Iterator[Row]:
    raise AssertionError("the cache should have been read")


def held(prepared: Any) -> list[Row]:
    rows = [prepared.read(i) for i in range(len(prepared))]
    return [{name: values.tolist() for name, values in row.items()} for row in rows]


@pytest.mark.parametrize("number", [1, 10_000, 10_001, 20_500])
def test_what_was_made_is_what_is_read_across_record_batches(number: int, tmp_path: Path) -> None:
    rows = random_rows(number)
    prepared = made(rows, tmp_path)
    assert held(prepared) == rows
    assert prepared.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    assert prepared.counts == {"rows kept": number}
    with pytest.raises(IndexError):
        prepared.read(number)


def test_long_rows_are_written_before_they_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 50)
    assert [len(batch) for batch in module._batches([{"a": [1] * 20}] * 7)] == [3, 3, 1]
    assert held(made(random_rows(500), tmp_path)) == random_rows(500)


def test_rows_are_read_from_the_mapped_file(tmp_path: Path) -> None:
    ids = made(random_rows(100), tmp_path).read(3)["input_ids"]
    assert not ids.flags.writeable and not ids.flags.owndata
    assert str(tmp_path) in Path("/proc/self/maps").read_text()


def test_what_is_cached_is_not_made_again(tmp_path: Path) -> None:
    first = made(random_rows(10), tmp_path)
    again = prepare(INGREDIENTS, never, tmp_path, COLUMNS)
    assert held(again) == held(first) and again.counts == first.counts and again.digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"source": [["sha of the dato"], None, {"prompt": "q"}]},
        {"source": [["sha of the data"], "text", {"prompt": "q"}]},
        {"source": [["sha of the data"], None, {"prompt": "r"}]},
        {"tokenizer": ["json", "{{ templatf }}", "</s>"]},
        {"options": ["causal_lm", 1023, "drop", None]},
        {"options": ["causal_lm", 1024, "truncate", None]},
    ],
)
def test_any_other_ingredient_is_another_entry(change: dict[str, Any], tmp_path: Path) -> None:
    made(random_rows(3), tmp_path)
    assert held(made(random_rows(4), tmp_path, INGREDIENTS | change)) == random_rows(4)


def test_other_code_or_another_library_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [module._key(INGREDIENTS)]
    code = sorted(Path(module.__file__).parent.rglob("*.py"))
    for path in code:
        with monkeypatch.context() as patched:
            real = module.file_digest
            patched.setattr(module, "file_digest", lambda p, n=path, real=real: "edited" if p == n else real(p))
            keys.append(module._key(INGREDIENTS))
    for name in module.LIBRARIES:
        with monkeypatch.context() as patched:
            real_version = module.version
            patched.setattr(module, "version", lambda n, name=name, real=real_version: "9" if n == name else real(n))
            keys.append(module._key(INGREDIENTS))
    assert len(set(keys)) == 1 + len(code) + len(module.LIBRARIES)


def test_the_digest_is_that_of_the_rows_not_of_how_they_came_about(tmp_path: Path) -> None:
    rows = random_rows(50)
    first, same = made(rows, tmp_path), made(rows, tmp_path, INGREDIENTS | {"tokenizer": ["json, reformatted"]})
    assert first.folder != same.folder and first.digest == same.digest
    moved = [{**rows[0], "trained": [1 - rows[0]["trained"][0], *rows[0]["trained"][1:]]}, *rows[1:]]
    cut = [{"input_ids": [1, 2], "trained": [1, 1]}, {"input_ids": [3], "trained": [1]}]
    cut_elsewhere = [{"input_ids": [1], "trained": [1]}, {"input_ids": [2, 3], "trained": [1, 1]}]
    others = [
        made(r, tmp_path, {"n": n}).digest for n, r in enumerate([moved, rows[1:], rows[::-1], cut, cut_elsewhere])
    ]
    assert len({first.digest, *others}) == 6


def test_no_row_left_is_an_error_that_says_where_they_went_and_leaves_no_entry(tmp_path: Path) -> None:
    def all_dropped(counts: dict[str, int]) -> Iterator[Row]:
        counts["rows read"], counts["rows dropped as too long"] = 7, 7
        return iter(())

    for _ in range(2):
        with pytest.raises(
            DataError, match=r"no row is left .*\(7 rows read, 7 rows dropped as too long\); see data\.on_"
        ):
            prepare(INGREDIENTS, all_dropped, tmp_path, COLUMNS)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_error_in_the_middle_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    def breaks(_: dict[str, int]) -> Iterator[Row]:
        yield from random_rows(15_000)
        raise DataError("row 15001 is broken")

    with pytest.raises(DataError, match="row 15001"):
        prepare(INGREDIENTS, breaks, tmp_path, COLUMNS)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert held(made(random_rows(5), tmp_path)) == random_rows(5)


PROCESS = """
import sys, time
from pathlib import Path
from launcher.data.prepare import Columns, prepare

def make_rows(counts):
    with open(sys.argv[2], "a") as marks:
        marks.write("x")
    for n in range(25_000):
        yield {"input_ids": [n, n + 1], "trained": [0, 1]}
    print("written", flush=True)
    time.sleep(float(sys.argv[3]))
    counts["rows kept"] = 25_000

columns = Columns({"input_ids": "ints", "trained": "ints"}, "input_ids")
print(len(prepare({"a": 1}, make_rows, Path(sys.argv[1]), columns)), flush=True)
"""


def start(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    arguments = [str(folder / "cache"), str(folder / "marks"), str(seconds)]
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_writer_leaves_nothing_that_is_taken_for_whole_and_nothing_for_good(tmp_path: Path) -> None:
    writer = start(tmp_path, 60)
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    assert len(list((tmp_path / "cache").glob(".*/rows.arrow"))) == 1, "it must be in the middle of writing"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    second = start(tmp_path, 0)
    assert second.communicate()[0].split() == ["written", "25000"]
    assert [path.name[0] != "." for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [True]


def test_of_two_processes_at_once_one_writes(tmp_path: Path) -> None:
    both = [start(tmp_path, 0.5) for _ in range(2)]
    said = sorted(process.communicate()[0].split() for process in both)
    assert said == [["25000"], ["written", "25000"]]
    assert (tmp_path / "marks").read_text() == "x"


def test_joined_sources_are_one_run_of_rows(tmp_path: Path) -> None:
    parts = [random_rows(number, seed=number) for number in (3, 1, 5)]
    joined = Joined([made(rows, tmp_path, {"n": n}) for n, rows in enumerate(parts)])
    together = [row for rows in parts for row in rows]
    assert len(joined) == 9 and held(joined) == together
    assert joined.lengths.tolist() == [len(row["input_ids"]) for row in together]
    assert joined.counts == {"rows kept": 9}
    turned = Joined([made(rows, tmp_path, {"n": n}) for n, rows in list(enumerate(parts))[::-1]])
    assert joined.digest != turned.digest
    assert isinstance(joined.starts, np.ndarray) and joined.starts.tolist() == [0, 3, 4, 9]


EVERY_KIND = Columns(
    {"where": "text", "labels": "texts", "ids": "ints", "boxes": "floats", "size": "int"}, length="size"
)


def of_every_kind(number: int, seed: int = 0) -> list[Row]:
    """Rows with empty lists, empty texts and characters beyond ASCII."""
    chance = random.Random(seed)
    return [
        {
            "where": f"données.csv:{n}" if n % 3 else "",
            "labels": chance.sample(["a", "ü", "", "長い"], chance.randint(0, 4)),
            "ids": [chance.randrange(9) for _ in range(chance.randint(0, 3))],
            "boxes": [chance.randrange(64) / 8 for _ in range(chance.choice([0, 4, 8]))],
            "size": chance.randrange(2**40),
        }
        for n in range(number)
    ]


def test_a_column_may_be_texts_and_numbers_of_every_kind(tmp_path: Path) -> None:
    rows = of_every_kind(10_050)
    prepared = prepare({}, lambda _: rows, tmp_path, EVERY_KIND)
    read = [prepared.read(i) for i in (0, 1, 9_999, 10_000, 10_049)]
    assert [{n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in row.items()} for row in read] == [
        rows[i] for i in (0, 1, 9_999, 10_000, 10_049)
    ]
    assert prepared.lengths.tolist() == [row["size"] for row in rows]
    assert prepared.all("labels") == [row["labels"] for row in rows]
    assert prepared.read(7, ["size"]) == {"size": rows[7]["size"]}
    assert prepare({"n": 1}, lambda _: rows, tmp_path, Columns(EVERY_KIND.kinds)).lengths.tolist() == [1] * 10_050


@pytest.mark.parametrize(
    "change", [{"where": "b"}, {"labels": ["ab", ""]}, {"labels": ["a"]}, {"ids": [2]}, {"boxes": [0.5]}, {"size": 4}]
)
def test_the_digest_sees_a_change_of_any_kind_of_column(change: Row, tmp_path: Path) -> None:
    row = {"where": "a", "labels": ["a", "b"], "ids": [1], "boxes": [0.25], "size": 3}
    first, other = (
        prepare({"n": n}, lambda _, r=r: [r], tmp_path, EVERY_KIND) for n, r in enumerate([row, row | change])
    )
    assert first.digest != other.digest
