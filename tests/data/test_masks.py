"""Which number in a mask is which class, and which does not count."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pictures import png

from launcher import log
from launcher.data import masks, pictures
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.errors import DataError, RecipeError
from launcher.schema import Data
from launcher.tasks.semantic_segmentation import rows as semantic_segmentation

MASK = np.array([[0, 1, 255], [255, 0, 1]], np.uint8)


def read(content: bytes) -> np.ndarray:
    return masks.numbers(pictures.decoded(content, "m.png"), "m.png")


def tools(labels: Labels | None = None, **data: Any) -> Tools:
    return Tools(None, Data(**data), "error", {}, labels)


def context(labels: Labels, counts: tuple[int, ...] = ()) -> Context:
    return Context(None, Data(), labels=labels, label_counts=counts)


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint8, 1), (np.uint16, 200)])
def test_numbers_are_those_in_the_file(dtype: Any, factor: int) -> None:
    wanted = MASK.astype(dtype) * factor
    assert np.array_equal(read(png(wanted)), wanted) and wanted.max() == 255 * factor


def test_of_a_palette_the_indices_count_and_of_one_bit_0_and_1() -> None:
    palette = Image.fromarray(MASK % 3).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    palette.putdata((MASK % 3).ravel().tolist())
    assert np.array_equal(read(png(palette)), MASK % 3)
    assert np.array_equal(read(png(Image.fromarray(MASK == 1))), MASK == 1)


@pytest.mark.parametrize(
    ("picture", "options", "says"),
    [
        (Image.new("RGB", (3, 2)), {}, "m.png: a mask has one number a pixel, and this one is RGB"),
        (Image.new("LA", (3, 2)), {}, "and this one is LA"),
        (Image.fromarray(MASK), {"format": "JPEG"}, "m.png: a mask cannot be a JPEG"),
        (Image.fromarray(MASK.astype(np.int32) - 5), {"format": "TIFF"}, "m.png: the mask has numbers outside 0 to"),
    ],
)
def test_what_is_no_mask_is_refused(picture: Image.Image, options: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(png(picture, **options))


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (["0", "255"], ("0", "255")),
        (["0", "1", "255"], ("0", "1")),
        (["10", "2", "0"], ("0", "2", "10")),
        (["1", "255"], ("1", "255")),
        (["7"], ("7",)),
    ],
)
def test_labels_that_are_found_take_255_for_one_beside_a_single_other(numbers: list[str], names: Any) -> None:
    assert masks.labels_found(numbers).names == names


def test_names_that_are_given_stand_for_0_1_2_or_for_what_the_mapping_says() -> None:
    assert masks.labels_given(Data(labels=("sky", "sea"))).values == {"0": "sky", "1": "sea"}
    mapped = masks.labels_given(Data(labels={"0": "sky", "4": "sea", "9": "sky"}))
    assert mapped.names == ("sky", "sea")
    found = masks.classes(np.array([[0, 4], [9, 3]]), context(mapped))
    assert found.tolist() == [[0, 1], [0, masks.IGNORED]]
    with pytest.raises(RecipeError, match="data.ignore_index: 4 stands for sea under data.labels"):
        masks.labels_given(Data(labels={"4": "sea"}, ignore_index=4))


def test_numbers_that_are_ignored_are_no_labels() -> None:
    two = masks.labels_given(Data(labels=("sky", "sea")))
    assert masks.names_in(MASK, tools(two), "m.png") == ["sky", "sea"]
    assert masks.names_in(MASK, tools(ignore_index=1), "m.png") == ["0", "255"]
    with pytest.raises(DataError, match="m.png: the label '255' is none of data.labels"):
        masks.names_in(MASK, tools(two, ignore_index=9), "m.png")
    with pytest.raises(DataError, match="m.png: 2 labels are none of data.labels: '3'"):
        masks.names_in(MASK % 2 + 3, tools(two), "m.png")


def test_255_that_is_probably_the_missing_label_is_not_ignored_in_silence() -> None:
    used = tools(masks.labels_given(Data(labels=("sky", "sea"))))
    masks.names_in(np.where(MASK == 1, 255, MASK), used, "m.png")
    assert used.labels is not None
    with pytest.raises(DataError, match="no mask has sea, and 255, which 1 masks have, is ignored"):
        masks.insist_on_known(context(used.labels, (1, 0)), used.counts)
    masks.insist_on_known(context(used.labels, (1, 1)), used.counts)
    many = masks.labels_given(Data(labels=tuple(map(str, range(256)))))
    with pytest.raises(DataError, match="256 different numbers"):
        masks.insist_on_known(context(many, (1,) * 256), {})


def test_255_beside_labels_that_are_found_is_said_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def seen(*rows: list[str], **data: Any) -> None:
        labels = masks.labels_found(value for row in rows for value in row)
        counts = tuple(sum(name in row for row in rows) for name in labels.names)
        train = SimpleNamespace(counts={}, all=lambda column: rows)
        semantic_segmentation.head(train, Context(None, Data(**data), labels=labels, label_counts=counts))

    log.set_up(0)
    seen(["0", "255"], ["0"])
    seen(["0", "1"], ["0"])
    seen(["0", "1", "255"], ["0", "255"], ["0", "1"], labels=("a", "b"))
    assert capsys.readouterr().out == ""
    seen(["0", "128", "255"], ["0", "128"])
    assert capsys.readouterr().out == "data.train: 1 masks with pixels of 255, which are ignored\n"
    with pytest.raises(
        DataError,
        match="2 masks have pixels of 255, which may be a label: 1 have the label 1; list data.labels, or set",
    ):
        seen(["0", "1"], ["0", "255"], ["0", "255"])
    with pytest.raises(DataError, match="which may be a label"):
        seen(["0", "1", "255"], ["0", "1"], ignore_index=7)


def test_a_mask_comes_back_from_its_png_and_a_resized_one_has_no_new_classes() -> None:
    assert np.array_equal(masks.decoded(masks.encoded(MASK)), MASK)
    assert set(np.unique(masks.resized(MASK, (40, 60)))) == {0, 1, 255}
    assert masks.small_size(3000, 600, 512) == (512, 102) and masks.small_size(30, 20, 512) == (30, 20)
