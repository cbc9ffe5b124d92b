"""Pictures: read from a file or from bytes, kept in prepared rows by name and digest, read again for a batch.

A picture is decoded once while rows are prepared, so that one that cannot be read is found then and not in the middle of a run;
one that has changed since is an error.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.data import media_rows
from launcher.data.media_rows import kinds as kinds
from launcher.errors import DataError, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

THREADS = 4  # decoding releases the interpreter's lock
MOST_PIXELS = 1 << 27  # 134 million; a file of a few kB may claim any number
SMALL_PIXELS = 512
MEND = "mend or remove the picture, or set data.on_error: skip"
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def first_read(name: str, source: str | bytes, where: str) -> tuple[dict[str, Any], "Image"]:
    """The columns of `kinds` for a picture, and the picture as it is in the file. DataError for one that cannot be read."""
    columns, content = media_rows.first_read(name, source, "picture", where)
    return columns, decoded(content, where)


def read(row: Mapping[str, Any], name: str = "image") -> "Image":
    """The picture of a prepared row in RGB and upright, as seen in the row's `view`, if augmentation has given it one.

    DataError where it is not what it was when the row was made.
    """
    picture = in_rgb(stored(row, name), row["where"])
    return row["view"].picture(picture) if "view" in row else picture


def stored(row: Mapping[str, Any], name: str) -> "Image":
    """The picture of a prepared row as it is in the file, upright."""
    return decoded(*media_rows.read(row, name, "picture"))


def decoded(content: bytes, where: str) -> "Image":
    """A picture upright, else as it is in the file, and `info["stored_size"]` there. DataError for one that cannot be read."""
    from PIL import ImageOps, UnidentifiedImageError

    try:
        picture = _header(content, where)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except DataError:
        raise
    except Exception as error:  # Pillow lets through whatever the decoder of a format raises
        unknown = isinstance(error, UnidentifiedImageError)
        problem = "in no format that is known" if unknown else str(error) or type(error).__name__
        raise DataError(f"the picture cannot be read: {problem}", where=where, fix=MEND) from error
    assert upright is not None
    upright.format = picture.format
    upright.info["stored_size"] = picture.size
    return upright


def upright_size(source: str | bytes, where: str) -> tuple[int, int]:
    """Width and height of a picture, told from its header, turned as its EXIF says. DataError for one that cannot be read."""
    from PIL import ExifTags, UnidentifiedImageError

    _, content = media_rows.first_read("image", source, "picture", where)
    try:
        picture = _header(content, where)
        is_turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        problem = "in no format that is known" if unknown else str(error)
        raise DataError(f"the picture cannot be read: {problem}", where=where, fix=MEND) from error
    return (picture.height, picture.width) if is_turned else (picture.width, picture.height)


def in_rgb(picture: "Image", where: str) -> "Image":
    """As transformers' pipelines convert: what is transparent keeps the colour that it has in the file. 16 bits become 8."""
    from PIL import Image

    if picture.mode == "F":
        raise DataError(
            "the picture holds floating-point numbers, and it is not said which is white", where=where, fix=MEND
        )
    if picture.mode in SIXTEEN_BITS:
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def each(work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
    """`work` of each thing, in order, on a few threads."""
    if len(things) < 2:
        return [work(thing) for thing in things]
    with ThreadPoolExecutor(min(THREADS, len(things))) as pool:
        return list(pool.map(work, things))


def pixels(rows: Sequence[Mapping[str, Any]], processor: Any) -> Any:
    """pixel_values (rows, channels, height, width) fp32 of prepared rows. Without rows, those of one black picture."""
    return together(each(lambda row: seen(read(row), processor), rows) or [seen(black(), processor)], processor)


def together(values: Sequence[np.ndarray], processor: Any) -> Any:
    """(rows, channels, height, width) of what the processor made. RecipeError where it leaves pictures of different sizes."""
    import torch

    if len(shapes := sorted({of_picture.shape[1:] for of_picture in values})) > 1:
        sizes = " and ".join(f"{height} x {width}" for height, width in shapes[:2])
        raise RecipeError(
            f"{type(processor).__name__} leaves pictures of different sizes, {sizes}",
            fix="set data.image_size: [height, width]",
        )
    return torch.from_numpy(np.stack(values))


def seen(picture: "Image", processor: Any) -> np.ndarray:
    """(channels, height, width) fp32: the picture as the model sees it."""
    found = processor(images=picture, return_tensors="np")
    if "pixel_values" not in found:
        raise RecipeError(f"{type(processor).__name__} makes no pixel_values", fix="use another model")
    values: np.ndarray = found["pixel_values"][0].astype(np.float32, copy=False)
    return values


def black() -> "Image":
    """Where there is no picture and one is needed."""
    from PIL import Image

    return Image.new("RGB", (64, 64))


def small(row: Mapping[str, Any], name: str = "image") -> "Image":
    """A copy for people to look at, of at most 512 pixels a side."""
    copy = read(row, name)
    copy.thumbnail((SMALL_PIXELS, SMALL_PIXELS))
    return copy


def file_name(row: Mapping[str, Any]) -> str:
    """For a table that says elsewhere where it stands."""
    return Path(row["image"]).name if row["image"] else str(row["where"])


def name(row: Mapping[str, Any]) -> str:
    """The picture's file, or where it stands in a file of many."""
    return str(row["image"] or row["where"])


def _header(content: bytes, where: str) -> "Image":
    """A picture that is not decoded yet; refuses one whose claimed size no picture has."""
    import warnings

    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit is an error
    picture = Image.open(io.BytesIO(content))
    number = picture.width * picture.height
    if not 0 < number <= MOST_PIXELS:
        size = f"{picture.width} x {picture.height} pixels"
        problem = f"the picture is {size}{f', more than {MOST_PIXELS:,}' if number else ''}"
        raise DataError(problem, where=where, fix=MEND)
    return picture
