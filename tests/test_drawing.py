"""What is drawn on pictures: in its place, in its colour, inside the picture, and the same every time."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from launcher.data import drawing
from launcher.data.drawing import PALETTE, beside, boxes, colours, mask

GREY = (128, 128, 128)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def changed(image: Image.Image, drawn: Image.Image) -> np.ndarray:
    return (pixels(image) != pixels(drawn)).any(-1)


def test_a_box_is_drawn_where_it_should_be_and_the_inside_is_left():
    image = Image.new("RGB", (400, 300), GREY)
    drawn = boxes(image, [[50, 100, 200, 250]], ["cat"])
    found = pixels(drawn)
    for x, y in ((50, 175), (200, 175), (125, 250), (60, 100)):
        assert tuple(found[y, x]) == PALETTE[0], (x, y)
    assert (found[110:240, 60:190] == GREY).all()
    rows, columns = np.where(changed(image, drawn))
    assert columns.min() == 50 and columns.max() == 200 and rows.max() == 250
    assert rows.min() >= 100 - 30, "the tag stands right above its box"


@pytest.mark.parametrize("size", [(20, 12), (300, 200), (3000, 1800)])
def test_lines_and_letters_grow_with_the_picture(size):
    image = Image.new("RGB", size, GREY)
    drawn = pixels(boxes(image, [[size[0] * 0.25, size[1] * 0.5, size[0] * 0.75, size[1] * 0.9]], ["cat"], [0.5]))
    assert max(drawn.shape[:2]) >= 256
    row = drawn[round(0.7 * drawn.shape[0])]
    line = (row == PALETTE[0]).all(-1).sum() / 2
    assert max(2, drawn.shape[1] / 300) <= line <= max(2, drawn.shape[1] / 150)
    tag = drawn[: drawn.shape[0] // 2]
    filled = (tag == PALETTE[0]).all(-1).sum(1) > 20
    assert max(11, drawn.shape[1] / 50) <= filled.sum() <= max(18, drawn.shape[1] / 20)


CORNERS = [[0, 0, 60, 60], [340, 0, 400, 60], [0, 240, 60, 300], [380, 280, 400, 300], [0, 0, 400, 300]]


@pytest.mark.parametrize("corners", [*CORNERS, [-50, -50, 900, 900], [390, 290, 395, 295], [395, 5, 380, 2]])
@pytest.mark.parametrize("label", ["x", "a name that is much longer than the picture is wide " * 3])
def test_the_tag_stays_inside_the_picture(corners, label, monkeypatch):
    written = []
    monkeypatch.setattr(drawing, "_tag", lambda *a, tag=drawing._tag: written.append(tag(*a)) or written[-1])
    image = Image.new("RGB", (400, 300), GREY)
    assert boxes(image, [corners], [label], [0.25]).size == image.size
    left, top, right, bottom = written[0]
    assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300


def test_tags_do_not_cover_each_other_where_there_is_room(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, "_tag", lambda *a, tag=drawing._tag: written.append(tag(*a)) or written[-1])
    boxes(
        Image.new("RGB", (640, 480)), [[100, 100, 300, 300], [102, 101, 302, 303], [98, 99, 305, 310]], ["a", "b", "c"]
    )
    assert len(written) == 3 and not any(drawing._overlap(a, b) for a, b in combinations(written, 2))


def test_the_surest_box_lies_on_top():
    image, same = Image.new("RGB", (300, 300)), [[50, 50, 250, 250]] * 2
    of = {"a": (255, 0, 0), "b": (0, 255, 0)}
    for scores, top in (([0.9, 0.1], "a"), ([0.1, 0.9], "b")):
        assert tuple(pixels(boxes(image, same, ["a", "b"], scores, of))[150, 50]) == of[top]


def test_boxes_of_one_label_have_its_colour_in_every_picture():
    of = colours(["cat", "dog", "emu"])
    for label in of:
        drawn = boxes(Image.new("RGB", (300, 300)), [[50, 50, 250, 250]], [label], None, of)
        assert tuple(pixels(drawn)[150, 50]) == of[label]


def test_no_box_and_no_finite_box_change_nothing():
    image = Image.new("RGB", (300, 200), GREY)
    for none in (np.zeros((0, 4)), []):
        assert not changed(image, boxes(image, none, [], [])).any()
    assert not changed(image, boxes(image, [[np.nan, 1, 2, 3], [0, 0, np.inf, 9]], ["a", "b"], [0.5, 0.5])).any()


def test_the_picture_given_is_not_drawn_on_and_the_same_comes_out_twice():
    image = Image.new("RGB", (300, 200), GREY)
    classes = np.arange(200 * 300).reshape(200, 300) // 20_000
    for draw in (lambda: boxes(image, [[9, 9, 99, 99]], ["a"], [0.5]), lambda: mask(image, classes, ["a", "b", "c"])):
        assert draw().tobytes() == draw().tobytes()
    assert (pixels(image) == GREY).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_pictures_of_other_modes_are_drawn_on_in_colour(mode):
    image = Image.new(mode, (300, 200))
    assert tuple(pixels(boxes(image, [[50, 50, 250, 150]], ["a"]))[100, 50]) == PALETTE[0]
    assert mask(image, np.ones((200, 300), int), ["a", "b"]).mode == "RGB"


def two_halves(value: int, size: tuple[int, int] = (300, 200)) -> np.ndarray:
    classes = np.zeros(size[::-1], int)
    classes[:, size[0] // 2 :] = value
    return classes


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_a_class_is_mixed_with_the_picture_and_opaque_at_its_border(alpha):
    image = Image.new("RGB", (300, 200), GREY)
    found = pixels(mask(image, two_halves(2), ["background", "x", "y"], alpha))
    mixed = np.array(GREY) + alpha * (np.array(PALETTE[2]) - GREY)
    assert np.abs(found[10:190, 155:295] - mixed).max() <= 0.5 and (found[:200, :150] == GREY).all()
    assert (found[:200, 150] == PALETTE[2]).all()


@pytest.mark.parametrize(
    ("labels", "clear", "stays"),
    [(["background", "x"], None, True), (["Background", "x"], None, True), (["sky", "x"], None, False),
     (["sky", "x"], 0, True), (["background", "x"], 1, False)],
)  # fmt: skip
def test_the_background_stays_clear(labels, clear, stays):
    found = pixels(mask(Image.new("RGB", (300, 200), GREY), two_halves(1), labels, clear=clear))
    assert (found[:200, :140] == GREY).all() == stays


def test_numbers_without_a_label_stay_clear():
    image = Image.new("RGB", (300, 200), GREY)
    for unknown in (255, 7, -1):
        found = mask(image, two_halves(unknown), ["background", "x"])
        assert found.size == image.size and not changed(image, found).any()


@pytest.mark.parametrize("present", [[1], [1, 3], list(range(1, 20))])
def test_the_legend_names_each_class_in_the_picture_once(present, monkeypatch):
    labels = ["background", *(f"class {i}" for i in range(1, 20))]
    entries = []
    kept = drawing._with_legend
    monkeypatch.setattr(drawing, "_with_legend", lambda image, found: entries.extend(found) or kept(image, found))
    classes = np.zeros((200, 300), int)
    for row, number in enumerate(present):
        classes[row * 10 : row * 10 + 10] = number
    drawn = mask(Image.new("RGB", (300, 200), GREY), classes, labels)
    assert entries == [(labels[i], PALETTE[i]) for i in present]
    strip = pixels(drawn)[200:]
    for i in present:
        assert (strip == PALETTE[i]).all(-1).sum() >= 100, f"no swatch of class {i}"
    ink = strip.sum(-1) < 300  # letters are smoothed
    assert ink.any() and not ink[:, -1].any(), "a name runs out of the picture"


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(AssertionError, match=r"\(200, 100\)"):
        mask(Image.new("RGB", (200, 100)), np.zeros((200, 100), int), ["a"])


def test_pictures_stand_beside_each_other_at_one_scale_under_their_titles():
    small, large = Image.new("RGB", (100, 50), (255, 0, 0)), Image.new("RGB", (400, 200), (0, 0, 255))
    sheet = pixels(beside(small, large, titles=["one", "two"]))
    red, blue = (np.where((sheet == c).all(-1)) for c in ((255, 0, 0), (0, 0, 255)))
    for rows, columns in (red, blue):
        assert np.ptp(rows) + 1 == 200 and np.ptp(columns) + 1 == 400
    assert red[0].min() == blue[0].min() and red[1].max() < blue[1].min()
    titles = (sheet[: red[0].min()].sum(-1) < 300).any(0)
    assert titles[:400].any() and titles[blue[1].min() :].any()


def seen(colour: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """CIELAB of an sRGB colour (IEC 61966-2-1, D65) after the cones of an eye."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ np.clip(matrix @ linear, 0, 1), 0.0089) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes (2009), severity 1.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
TRITANOPIA = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]


@pytest.mark.parametrize("matrix", [np.eye(3).tolist(), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_colours_are_told_apart_by_every_kind_of_eye(matrix):
    views = [seen(colour, np.array(matrix)) for colour in PALETTE]
    # 2.3 is just noticeable side by side (Mahy and others, 1994); across a picture it takes several times that.
    assert min(np.linalg.norm(a - b) for a, b in combinations(views, 2)) > 12


def test_colours_repeat_after_the_last():
    names = [f"class {i}" for i in range(45)]
    found = colours(names)
    assert len(set(found.values())) == len(PALETTE) == 20 and found["class 0"] == found["class 20"] == found["class 40"]


def test_reading_the_file_does_not_wait_for_pillow():
    code = "import sys, launcher.data.drawing; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
