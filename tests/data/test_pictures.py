"""Pictures of every kind become the RGB pixels that a person sees, and what cannot be read is a located error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_pictures import png

from launcher.data import pictures
from launcher.errors import DataError, RecipeError

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
GREY = np.random.default_rng(1).integers(0, 256, (6, 9), dtype=np.uint8)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(pictures.in_rgb(pictures.decoded(content, "here"), "here"))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_the_colours_that_pillow_converts_it_to(mode: str) -> None:
    picture = RGB.convert(mode)
    found = pixels(png(picture, format="TIFF" if mode == "CMYK" else "PNG"))
    assert np.array_equal(found, np.asarray(picture.convert("RGB")))


def test_a_palette_with_transparent_colours_keeps_them_without_a_warning() -> None:
    picture = RGB.convert("P")
    assert np.array_equal(pixels(png(picture, transparency=b"\x00\x80")), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    found = pixels(png(GREY.astype(np.uint16) * 257))
    assert np.array_equal(found, np.stack([GREY] * 3, axis=-1))


def test_a_picture_stands_upright_as_its_camera_says() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    content = png(RGB, format="JPEG", exif=turned)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(pictures.io.BytesIO(content))))
    assert np.array_equal(pixels(content), wanted) and wanted.shape == (9, 6, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "in no format that is known"),
        (b"hello", "in no format that is known"),
        (png(RGB)[:-40], "truncated"),
        (png(RGB, format="JPEG")[:300], "cannot be read"),
        (png(Image.new("1", (20_000, 7_000))), "20000 x 7000 pixels, more than 134,217,728"),
        (png(Image.new("1", (20_000, 20_000))), "exceeds limit"),
        (png(GREY.astype(np.float32), format="TIFF"), "floating-point"),
    ],
)
def test_what_cannot_be_read_is_a_located_error(content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=f"^here: the picture .*{says}"):
        pixels(content)


@pytest.mark.parametrize("inside", [True, False])
def test_a_row_holds_the_path_or_the_bytes_and_knows_when_they_have_changed(inside: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(RGB))
    row, _ = pictures.first_read("image", path.read_bytes() if inside else str(path), "here")
    row["where"] = "here"
    assert np.array_equal(np.asarray(pictures.read(row)), np.asarray(RGB))
    path.write_bytes(png(GREY))
    if inside:
        assert np.array_equal(np.asarray(pictures.read(row)), np.asarray(RGB))
        return
    with pytest.raises(DataError, match=r"a.png: the picture has changed since the data was prepared"):
        pictures.read(row)
    path.unlink()
    with pytest.raises(DataError, match=r"a.png: the picture cannot be read: No such file"):
        pictures.read(row)


def test_pictures_on_several_threads_keep_their_order_and_the_first_error_comes_out() -> None:
    def work(number: int) -> int:
        if number in (20, 30):
            raise DataError(f"number {number}")
        return number * number

    assert pictures.each(work, range(20)) == [n * n for n in range(20)]
    with pytest.raises(DataError, match="number 20"):
        pictures.each(work, range(40))


def test_a_batch_is_what_the_processor_makes_of_each_picture() -> None:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": 8, "width": 12})
    rows = [{**pictures.first_read("image", png(picture), "x")[0], "where": "x"} for picture in (RGB, GREY, RGB)]
    found = pictures.pixels(rows, processor)
    wanted = processor(images=[RGB, Image.fromarray(GREY).convert("RGB"), RGB], return_tensors="pt")["pixel_values"]
    assert found.equal(wanted)
    assert pictures.pixels([], processor).shape == (1, 3, 8, 12)


def test_pictures_that_do_not_fit_into_one_batch_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"sizes, 4 x 6 and 4 x 9; set data.image_size: \[height, width\]"):
        pictures.together([np.zeros((3, 4, 9)), np.zeros((3, 4, 6))], object())


def test_a_small_copy_keeps_the_proportions() -> None:
    row: dict[str, Any] = {**pictures.first_read("image", png(Image.new("RGB", (1024, 300))), "x")[0], "where": "x"}
    assert pictures.small(row).size == (512, 150)
