"""report.html, Evaluation in detail: all that evaluation.json holds is there, and no more; nothing in it becomes markup."""

import base64
import io
import json
import math
import re
from pathlib import Path

import fake_evaluations
import numpy as np
import pytest
from fake_evaluations import HOSTILE, KINDS, make_evaluated
from fake_run import make_run
from PIL import Image
from test_report import Page

from launcher import report
from launcher.report.confusion import laid_out
from launcher.report.details import PARTS
from launcher.report.pictures import embedded
from launcher.report.planes import plane


def page_of(tmp_path: Path, **evaluation) -> Page:
    run = make_run(tmp_path / "run", evaluation={"step": 7, "task": "some_task", **evaluation})
    return Page(report.write(run).read_text(encoding="utf-8"))


def cells_of(page: Page, tag: str, colour: str) -> list[str]:
    return [a["title"] for a in page.all(tag) if (a.get("class") or "").split()[:1] == [colour] and "title" in a]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_makes_a_whole_page_that_loads_nothing(tmp_path, kind):
    html = report.write(make_evaluated(tmp_path / kind, kind)).read_text(encoding="utf-8")
    page = Page(html)
    assert "Evaluation in detail" in page.text and "After step 200" in page.text and "None" not in page.text
    assert "Not everything could be read" not in page.text and "No sample answers" not in page.text
    assert not re.search(r"@import|url\(|https?://", html)
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert not [name for name in attributes if name.startswith("on")], attributes


@pytest.mark.parametrize("name", PARTS)
def test_only_what_is_there_is_shown(tmp_path, name):
    evaluation = json.loads((make_evaluated(tmp_path / "all", "three_classes") / "evaluation.json").read_text())
    evaluation["pictures"] = [{"file": "gone.png"}]
    headings = {"confusion_matrix": "Confusion matrix", "table": "By class", "curves": "Precision and recall",
                "errors": "Worst errors", "pictures": "Pictures", "notes": "3 rows of the evaluation data"}  # fmt: skip
    text = page_of(tmp_path, **{name: evaluation[name]}).text
    assert {part for part, heading in headings.items() if heading in text} == {name}


def test_without_details_the_section_is_not_there(tmp_path):
    for content in (None, {"step": 3, "task": "x"}, {"step": 3, "curves": [], "errors": [], "notes": []}):
        page = Page(report.write(make_run(tmp_path / "run", evaluation=content)).read_text(encoding="utf-8"))
        assert "in detail" not in page.text.lower() and "#details" not in [a.get("href") for a in page.all("a")]


def test_the_matrix_shows_every_count_beside_its_reference_and_under_its_prediction(tmp_path):
    counts = [[50, 3, 0], [4, 43, 1], [0, 2, 9]]
    page = page_of(tmp_path, confusion_matrix={"labels": ["ape", "bee", "cat"], "counts": counts})
    told = cells_of(page, "td", "c0") + cells_of(page, "td", "c1")
    expected = {
        f"{a} → {b}: {counts[i][j]} of {sum(counts[i])}"
        for i, a in enumerate(["ape", "bee", "cat"]) for j, b in enumerate(["ape", "bee", "cat"])
    }  # fmt: skip
    assert {cell.partition(" (")[0] for cell in told} == expected
    assert (
        "apebeecatin all" in page.text
        and "102 of 112 right" in page.text
        and "ape503053" in page.text
        and "in all544810112" in page.text
    )


def test_a_matrix_of_many_classes_draws_each_filled_cell_and_lists_the_confusions(tmp_path):
    counts = np.array(fake_evaluations.counts(77, 40, 0.9))
    labels = [f"intent_{i}" for i in range(77)]
    page = page_of(tmp_path, confusion_matrix={"labels": labels, "counts": counts.tolist()})
    rects = [a for a in page.all("rect") if a.get("class") in ("c0", "c1")]
    size = int(rects[0]["width"])
    left, top = (min(int(a[axis]) for a in rects) for axis in "xy")
    places = {((int(a["y"]) - top) // size, (int(a["x"]) - left) // size) for a in rects}
    assert places == set(zip(*np.nonzero(counts), strict=True)) and len(rects) == len(places)
    assert sum(a["class"] == "c0" for a in rects) == (counts.diagonal() > 0).sum()
    off = counts - np.diag(counts.diagonal())
    i, j = np.unravel_index(off.argmax(), off.shape)
    listed = page.text[page.text.index("Most frequent confusions") :]
    assert re.search(rf"predictedTimes.*?\s+intent_{i} → intent_{j}{off.max()}", listed, re.S)
    assert f"intent_{i} → intent_{j}: {off.max()} of {counts[i].sum()}" in page.text


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 40, 100, 101, 400])
def test_a_matrix_of_any_size_makes_a_page_of_bounded_size(tmp_path, classes):
    full = (np.ones((classes, classes), int) + np.eye(classes, dtype=int)).tolist()
    page_of(tmp_path, confusion_matrix={"labels": [f"class {i}" for i in range(classes)], "counts": full})
    assert (tmp_path / "run" / "report.html").stat().st_size < 4e6


def test_a_row_without_examples_has_no_share():
    matrix = laid_out(["a", "b"], [[0, 0], [3, 1]])
    assert [cell.share for row in matrix.rows for cell in row] == [0, 0, 0.75, 0.25]
    assert [(c.reference, c.predicted, c.count) for c in matrix.confusions] == [(1, 0, 3)]


def test_the_table_keeps_its_order_and_has_bars_only_behind_shares(tmp_path):
    rows = [["b", 0.25, 7, None], ["a", 1.0, 1, 2.5], ["c", 0.0, 0, 0.5]]
    page = page_of(tmp_path, table={"columns": ["class", "f1", "support", "mae"], "rows": rows})
    assert [a["style"] for a in page.all("i") if "--share" in (a.get("style") or "")] == [
        "--share: 0.250", "--share: 1.000", "--share: 0.000",
    ]  # fmt: skip
    text = "".join(page.text[page.text.index("By class") :].split())
    assert text.startswith("ByclassClassF1SupportMAEb0.2507–a1.00012.500c0.00000.5000")


def test_lines_lie_where_their_numbers_say():
    drawn = plane("t", "recall", "precision", [("a", [(0, 1), (0.5, 0.5), (1, 0)]), ("dot", [(0.25, 0.75)])])
    left, top, right, bottom = drawn.frame
    middle = f"{(left + right) / 2:g},{(top + bottom) / 2:g}"
    assert drawn.lines[0].path == f"M{left},{top}L{middle}L{right},{bottom}"
    assert drawn.lines[1].dots == [(left + (right - left) / 4, top + (bottom - top) / 4)]
    assert [tick.text for tick in drawn.x_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_points_that_no_line_joins_fill_the_frame():
    drawn = plane("t", "right", "predicted", [("exact", [(7, 7), (9, 9)]), ("rows", [(7, 8), (8, 9)])], {"rows"})
    left, top, right, bottom = drawn.frame
    across, up = (left + right) / 2, (top + bottom) / 2
    assert drawn.lines[0].path == f"M{left},{bottom}L{right},{top}" and drawn.lines[0].dots == []
    assert drawn.lines[1].path == "" and drawn.lines[1].dots == [(left, up), (across, top)]


def test_values_that_are_not_finite_and_lines_beyond_ten_are_left_out_and_said():
    lines = [(f"line {i}", [(0.0, 0.1), (math.nan, 0.2), (1.0, math.inf)]) for i in range(13)]
    drawn = plane("t", "x", "y", [*lines, ("empty", [])])
    assert len(drawn.lines) == 10 and drawn.notes == ["the first 10 of 13 lines", "empty: no values"]
    assert all(line.dots for line in drawn.lines)


def test_every_line_is_named_in_the_legend(tmp_path):
    lines = [{"name": f"line <{i}>", "points": [[0, 1], [1, 0]]} for i in range(10)]
    page = page_of(tmp_path, curves=[{"title": "T", "x": "recall", "y": "precision", "lines": lines}])
    assert len([a for a in page.all("g") if (a.get("class") or "").startswith("curve")]) >= 20
    for line in lines:
        assert page.text.count(line["name"]) >= 2  # its own title and the legend
    assert "recall" in page.text and "precision" in page.text


def test_errors_show_all_their_keys_and_the_whole_of_a_long_text(tmp_path):
    long = "word " * 400 + "the very end"
    errors = [
        {"where": "data/test.csv:12", "input": long, "reference": ["x", "y"], "predicted": [], "confidence": 0.98765},
        {"where": "data/test.csv:99", "input": "short", "reference": 3, "predicted": 2.5, "context": "only here"},
    ]
    page = page_of(tmp_path, errors=errors)
    for shown in (
        "the very end",
        "x, y",
        "(none)",
        "0.9877",
        "test.csv:99",
        "2.500",
        "only here",
        "Context",
        "Confidence",
    ):
        assert shown in page.text, shown
    assert len([a for a in page.all("details") if a.get("class") == "whole"]) == 1
    assert re.search(r"InputReference\s*Predicted\s*Confidence\s*Context\s*Where", page.text)


def test_everything_is_escaped(tmp_path):
    labels = [HOSTILE, HOSTILE + "2"]
    page = page_of(
        tmp_path,
        confusion_matrix={"labels": labels, "counts": [[1, 2], [3, 4]]},
        table={"columns": [HOSTILE, HOSTILE], "rows": [[HOSTILE, HOSTILE]]},
        curves=[
            {"title": HOSTILE, "x": HOSTILE, "y": HOSTILE, "lines": [{"name": HOSTILE, "points": [[0, 0], [1, 1]]}]}
        ],
        errors=[{HOSTILE[:-2]: HOSTILE, "input": HOSTILE * 9, "reference": [HOSTILE], "picture": "<script>.png"}],
        pictures=[{"file": "\"'><script>.png", "caption": HOSTILE, "where": HOSTILE}],
        notes=[HOSTILE],
    )
    assert len(page.all("script")) == 1 and not page.all("img") and "49" not in page.text
    assert page.text.count("<script>alert(1)</script>") >= 20 and "is left out" not in page.text
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], attributes


@pytest.mark.parametrize(
    "odd", [None, "x", True, -1, 1e300, math.nan, [1], {"a": 1}, [[1]], [{"a": 1}], [None], HOSTILE]
)
def test_no_odd_value_breaks_the_page_and_what_is_left_out_is_said(tmp_path, odd):
    page = page_of(tmp_path, **dict.fromkeys(PARTS, odd))
    if odd is not None:
        assert page.text.count("is left out, because of") >= len(PARTS) - 2
    for name, keys in (("confusion_matrix", ("labels", "counts")), ("table", ("columns", "rows"))):
        page_of(tmp_path, **{name: dict.fromkeys(keys, odd)})
    page_of(
        tmp_path, errors=[dict.fromkeys(("where", "input", "reference", "predicted", "confidence", "picture"), odd)]
    )
    page_of(tmp_path, pictures=[dict.fromkeys(("file", "where", "caption"), odd)])
    page_of(tmp_path, curves=[dict.fromkeys(("title", "x", "y", "lines"), odd)], step=odd)


@pytest.mark.parametrize("garbage", ["", "[]", "null", "{", '"text"', "[1, 2]", "\x00\xff"])
def test_no_content_of_the_file_breaks_the_page(tmp_path, garbage):
    page = Page(report.write(make_run(tmp_path / "run", evaluation=garbage)).read_text(encoding="utf-8"))
    assert "Evaluation in detail" not in page.text and ("evaluation.json" in page.text) == bool(garbage)


def shown(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_huge_photo_is_scaled_and_the_page_stays_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (250, 333, 3), dtype=np.uint8)
    make_run(tmp_path / "run")
    Image.fromarray(noise).resize((4000, 3000)).save(tmp_path / "run" / "photo.jpg")
    page = page_of(tmp_path, pictures=[{"file": "photo.jpg", "caption": "a photo"}])
    image = shown(page.all("img")[0]["src"])
    assert image.size == (512, 384) and (page.all("img")[0]["width"], page.all("img")[0]["height"]) == ("512", "384")
    assert (tmp_path / "run" / "report.html").stat().st_size < 500_000 and page.all("img")[0]["alt"] == "a photo"


@pytest.mark.parametrize(
    ("size", "kept"), [((32, 32), (32, 32)), ((512, 100), (512, 100)), ((600, 1200), (256, 512)), ((3000, 600), (1536, 307))]
)  # fmt: skip
def test_only_what_is_too_large_is_scaled_and_a_row_of_pictures_stays_wide(tmp_path, size, kept):
    Image.new("RGB", size, (10, 120, 200)).save(tmp_path / "a.png")
    found = embedded(tmp_path, "a.png")
    assert shown(found.uri).size == (found.width, found.height) == kept


def test_a_small_picture_keeps_its_very_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (np.asarray(shown(embedded(tmp_path, "a.png").uri)) == pixels).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "F"])
def test_pictures_of_every_mode_are_shown(tmp_path, mode):
    name = "a.tiff" if mode in ("CMYK", "F", "I") else "a.png"
    Image.new(mode, (40, 30)).save(tmp_path / name)
    assert embedded(tmp_path, name).uri.startswith("data:image/png;base64,")


def test_a_photo_taken_sideways_stands_upright(tmp_path):
    photo = Image.new("RGB", (60, 20), "white")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(tmp_path / "a.jpg", exif=turned)
    assert shown(embedded(tmp_path, "a.jpg").uri).size == (20, 60)


def test_a_missing_or_broken_picture_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    files = ["gone.png", "torn.png", "../secret.png", str(tmp_path / "secret.png"), "", "a\0b.png"]
    page = page_of(tmp_path, pictures=[{"file": f} for f in files], errors=[{"input": "x", "picture": "lost.png"}])
    assert not page.all("img")
    for said in ("gone.png is missing", "lost.png is missing", "torn.png cannot be read as a picture"):
        assert said in page.text
    assert page.text.count("lies outside the run folder") == 2
