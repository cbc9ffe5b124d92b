"""Boxes, class colours and titles on pictures, for people to look at. The same input gives the same pixels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Colour = tuple[int, int, int]
Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

# Okabe and Ito's seven, then each the colour farthest from those before (CIELAB), in the worst of four eyes: normal,
# protanopic, deuteranopic and tritanopic after Machado, Oliveira and Fernandes (2009). The least distance is 16.9.
PALETTE: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (135, 0, 240), (105, 30, 0), (180, 225, 150), (60, 45, 90), (150, 120, 255), (225, 0, 75), (0, 255, 210),
    (0, 45, 165), (195, 165, 90), (120, 75, 105), (75, 105, 60), (135, 75, 0), (90, 0, 120),
)  # fmt: skip
PAPER, INK = (255, 255, 255), (29, 34, 38)
BACKGROUNDS = {"background", "_background_", "__background__", "bg"}
LEAST_PIXELS = 256  # of the longer side; a smaller picture is enlarged, for there is no room to write in it
LEAST_FONT_PIXELS = 11


def colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each name, by its place; after the last colour the first comes again."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def boxes(
    image: "Image",
    boxes: Any,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    colour_of: Mapping[str, Colour] | None = None,
) -> "Image":
    """A copy of the picture with boxes, each tagged with its label and score; the surest lie on top.

    boxes: (n, 4) x1, y1, x2, y2 in pixels of `image`; what lies outside is drawn at the border, what is not finite is
    left out. colour_of: label -> colour, `colours(all labels)` to have the same in several pictures. A picture below
    256 pixels is enlarged by a whole number.
    """
    from PIL import ImageDraw

    colour_of = colour_of or colours(sorted(set(labels)))
    picture, factor = _enlarged(image)
    corners = _corners(boxes, len(labels), factor, picture.size)
    order = sorted(corners, key=lambda i: scores[i]) if scores is not None else list(corners)
    pen, font, line = ImageDraw.Draw(picture), _font(picture.size), max(2, round(max(picture.size) / 240))
    for i in order:
        pen.rectangle(corners[i], outline=colour_of[labels[i]], width=line)
    taken: list[Corners] = []
    for i in reversed(order):  # the surest chooses its place first
        text = labels[i] if scores is None else f"{labels[i]} {scores[i]:.2f}"
        taken.append(_tag(pen, font, text, corners[i], picture.size, colour_of[labels[i]], taken))
    return picture


def mask(image: "Image", mask: Any, labels: Sequence[str], alpha: float = 0.5, clear: int | None = None) -> "Image":
    """A copy of the picture under the colours of its classes, opaque at their borders, with a legend of them below.

    mask: (height, width) class numbers; numbers without a label, such as 255, stay clear. clear: the class that is not
    coloured; None is class 0 where it is called background. A picture below 256 pixels is enlarged by a whole number.
    """
    from PIL import Image

    classes = np.asarray(mask)
    assert classes.shape == image.size[::-1], f"a mask of {classes.shape} on a picture of {image.size[::-1]}"
    if clear is None and labels and labels[0].lower() in BACKGROUNDS:
        clear = 0
    shown = [i for i in np.unique(classes).tolist() if 0 <= i < len(labels) and i != clear]
    picture, factor = _enlarged(image)
    pixels = np.asarray(picture, dtype=np.float32).copy()
    classes = classes.repeat(factor, 0).repeat(factor, 1)
    strength = np.where(_borders(classes), 1.0, alpha)[..., None]
    for i in shown:
        inside = classes == i
        pixels[inside] += strength[inside] * (np.array(PALETTE[i % len(PALETTE)]) - pixels[inside])
    painted = Image.fromarray(pixels.round().astype(np.uint8))
    return _with_legend(painted, [(labels[i], PALETTE[i % len(PALETTE)]) for i in shown])


def beside(*images: "Image", titles: Sequence[str]) -> "Image":
    """Pictures from left to right, each under its title, scaled to the width of the widest."""
    from PIL import Image, ImageDraw

    width = max(LEAST_PIXELS, *(image.width for image in images))
    scaled = [_of_width(image, width) for image in images]
    font, gap = _font((width, width)), max(6, width // 40)
    strip = 2 * _line_height(font)
    size = (len(scaled) * (width + gap) - gap, strip + max(image.height for image in scaled))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (image, title) in enumerate(zip(scaled, titles, strict=True)):
        left = i * (width + gap)
        pen.text((left + 4, strip / 2), _fitting(title, font, width - 8), INK, font, anchor="lm")
        sheet.paste(image, (left, strip))
    return sheet


def _borders(classes: np.ndarray) -> np.ndarray:
    """Where a pixel has another class beside or below it."""
    borders = np.zeros(classes.shape, bool)
    borders[:-1] |= classes[:-1] != classes[1:]
    borders[1:] |= classes[:-1] != classes[1:]
    borders[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    borders[:, 1:] |= classes[:, :-1] != classes[:, 1:]
    return borders


def _enlarged(image: "Image") -> tuple["Image", int]:
    """An RGB copy and the whole number by which it is larger."""
    from PIL import Image

    factor = max(1, math.ceil(LEAST_PIXELS / max(image.size)))
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), factor


def _of_width(image: "Image", width: int) -> "Image":
    from PIL import Image

    whole = width % image.width == 0  # few pixels that were made many stay squares, as in the pictures beside it
    resample = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
    return image.convert("RGB").resize((width, max(1, round(image.height * width / image.width))), resample)


def _font(size: tuple[int, int]) -> "FreeTypeFont":
    from PIL import ImageFont

    # PIL's own font comes with it, so that a picture looks the same on every machine.
    return ImageFont.load_default(size=max(LEAST_FONT_PIXELS, round(max(size) / 40)))  # type: ignore[return-value]


def _line_height(font: "FreeTypeFont") -> int:
    return math.ceil(font.size * 1.35)


def _corners(boxes: Any, number: int, factor: int, size: tuple[int, int]) -> dict[int, Corners]:
    """Of each finite box, by its number: x1 <= x2 and y1 <= y2 inside the picture."""
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    assert len(array) == number, f"{len(array)} boxes with {number} labels"
    finite = np.flatnonzero(np.isfinite(array).all(1)).tolist()
    pairs = np.sort(array[finite].reshape(-1, 2, 2) * factor, axis=1)
    inside = np.clip(pairs, 0, np.array(size) - 1).reshape(-1, 4).tolist()
    return {i: (x1, y1, x2, y2) for i, (x1, y1, x2, y2) in zip(finite, inside, strict=True)}


def _tag(
    pen: "ImageDraw",
    font: "FreeTypeFont",
    text: str,
    corners: Corners,
    size: tuple[int, int],
    colour: Colour,
    taken: list[Corners],
) -> Corners:
    """Write a label above its box, else below or inside it: where nothing is written yet, and inside the picture."""
    left, top, _, bottom = corners
    pad = max(3, round(font.size / 4))
    text = _fitting(text, font, size[0] - 2 * pad)
    width, height = math.ceil(font.getlength(text)) + 2 * pad, _line_height(font)
    x = max(0.0, min(left, size[0] - width))
    places = [(x, y, x + width, y + height) for y in (top - height, bottom + 1, top, bottom - height)]
    inside = [place for place in places if place[1] >= 0 and place[3] <= size[1]] or [(x, 0, x + width, height)]
    place = next((p for p in inside if not any(_overlap(p, other) for other in taken)), inside[0])
    pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
    pen.text((place[0] + pad, place[1] + height / 2), text, _readable_on(colour), font, anchor="lm")
    return place


def _overlap(a: Corners, b: Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _readable_on(colour: Colour) -> Colour:
    """Ink or paper, whichever stands out more (luminance as in WCAG 2, with a gamma of 2.2)."""
    red, green, blue = ((c / 255) ** 2.2 for c in colour)
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.19 else PAPER


def _fitting(text: str, font: "FreeTypeFont", width: float) -> str:
    """One line that is no wider than `width` pixels; what is cut off is marked."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _with_legend(image: "Image", entries: Sequence[tuple[str, Colour]]) -> "Image":
    """The picture above a strip of swatches and names, on as many lines as they need."""
    from PIL import Image, ImageDraw

    font = _font(image.size)
    height, side = math.ceil(font.size * 1.7), font.size
    places, x, y = [], 4.0, 0
    for name, colour in entries:
        text = _fitting(name, font, image.width - side - 14)
        width = side + 5 + font.getlength(text) + 12
        if x > 4 and x + width - 12 > image.width:
            x, y = 4.0, y + height
        places.append((x, y, text, colour))
        x += width
    sheet = Image.new("RGB", (image.width, image.height + (y + height if places else 0)), PAPER)
    sheet.paste(image)
    pen = ImageDraw.Draw(sheet)
    for x, y, text, colour in places:
        middle = image.height + y + height / 2
        pen.rectangle((x, middle - side / 2, x + side, middle + side / 2), fill=colour)
        pen.text((x + side + 5, middle), text, INK, font, anchor="lm")
    return sheet
