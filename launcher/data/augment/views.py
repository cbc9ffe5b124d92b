"""Pictures seen otherwise: cut, mirrored, turned, in other colours; masks and boxes follow.

All that changes shapes becomes one affine map, so a picture is interpolated once and a mask keeps its numbers. Maps are in shares
of width and height around the centre, from where a point was to where it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.data.augment.steps import ColorJitter, Flip, RandAugment, RandomCrop, Rotation, Step
from launcher.data.masks import IGNORED

if TYPE_CHECKING:
    from PIL.Image import Image

Random = np.random.Generator
Map = Callable[[float], np.ndarray]  # (3, 3), from the height of a picture over its width
GREY = (124, 116, 104)  # what is seen beyond the border: ImageNet's mean
LEAST_VISIBLE = 0.1  # share of a box's area; with less of it, the box is taken away
MOST = {"shear": 0.3, "translate": 150 / 331, "degrees": 30.0, "factor": 0.9}  # at magnitude 30, as in the paper's code


@dataclass
class View:
    """How a picture is seen: `maps` of its shape and then changes of its `colours`, in their order."""

    maps: list[Map] = field(default_factory=list)
    colours: list[Callable[[Any], Any]] = field(default_factory=list)

    def picture(self, picture: "Image") -> "Image":
        """Of the same size, in RGB."""
        from PIL import Image

        if self.maps:
            how = Image.Transform.AFFINE, self._back(*picture.size), Image.Resampling.BILINEAR
            picture = picture.transform(picture.size, *how, fillcolor=GREY)
        for colour in self.colours:
            picture = colour(picture)
        return picture

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(height, width) uint8 classes; ignored where nothing was."""
        from PIL import Image

        if not self.maps:
            return mask
        found = Image.fromarray(mask)
        how = Image.Transform.AFFINE, self._back(*found.size), Image.Resampling.NEAREST
        return np.array(found.transform(found.size, *how, fillcolor=IGNORED))

    def boxes(self, boxes: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) x, y, width, height in pixels: upright hulls of where the boxes are now, cut at the border; and which are left."""
        if not self.maps or not len(boxes):
            return boxes, np.ones(len(boxes), bool)
        forward = self._in_pixels(width, height)
        x, y, w, h = boxes.T
        corners = np.stack(
            [np.stack([x, x + w, x, x + w], 1), np.stack([y, y, y + h, y + h], 1), np.ones((len(boxes), 4))], 1
        )
        moved = (forward @ corners)[:, :2]
        first, last = moved.min(2), moved.max(2)
        seen_first, seen_last = np.clip(first, 0, [width, height]), np.clip(last, 0, [width, height])
        area, seen = np.prod(last - first, 1), np.prod(seen_last - seen_first, 1)
        kept = seen >= LEAST_VISIBLE * area
        return np.concatenate([seen_first, seen_last - seen_first], 1)[kept], kept

    def _in_pixels(self, width: int, height: int) -> np.ndarray:
        """(3, 3) from where a point was to where it is."""
        whole = np.eye(3)
        for made in self.maps:
            whole = made(height / width) @ whole
        to_pixels = np.array([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1.0]])
        found: np.ndarray = to_pixels @ whole @ np.linalg.inv(to_pixels)
        return found

    def _back(self, width: int, height: int) -> Any:
        """The six numbers that Pillow wants: from where a pixel is to where it was."""
        return tuple(np.linalg.inv(self._in_pixels(width, height))[:2].ravel())


def draw(steps: Sequence[Step], random: Random) -> View:
    """A view of one picture."""
    view = View()
    for step in steps:
        if random.random() < step.probability:
            _add(step, view, random)
    return view


def _add(step: Step, view: View, random: Random) -> None:
    if isinstance(step, Flip):
        view.maps.append(_scaled(-1, 1) if step.direction == "horizontal" else _scaled(1, -1))
    elif isinstance(step, Rotation):
        view.maps.append(_turned(random.uniform(-step.degrees, step.degrees)))
    elif isinstance(step, RandomCrop):
        view.maps.append(_cropped(step, random))
    elif isinstance(step, ColorJitter):
        _jitter(step, view, random)
    else:
        assert isinstance(step, RandAugment)
        for number in random.integers(len(OPERATIONS), size=step.num_ops):
            OPERATIONS[number](view, step.magnitude / 30, random)


# --- shapes --------------------------------------------------------------------------------------------------------------


def _constant(matrix: Sequence[Sequence[float]]) -> Map:
    return lambda proportion: np.array(matrix, float)


def _scaled(x: float, y: float) -> Map:
    return _constant([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def _moved(x: float, y: float) -> Map:
    return _constant([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _turned(degrees: float) -> Map:
    """Against the clock, as people see it. A circle is a circle, whatever the proportions of the picture."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return lambda proportion: np.array([[c, s * proportion, 0], [-s / proportion, c, 0], [0, 0, 1]])


def _cropped(step: RandomCrop, random: Random) -> Map:
    """The part that is kept becomes the whole."""
    area = random.uniform(step.min_scale, 1)
    ratio = math.exp(random.uniform(math.log(step.min_ratio), -math.log(step.min_ratio)))
    width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
    x, y = random.uniform(-0.5, 0.5) * (1 - width), random.uniform(-0.5, 0.5) * (1 - height)
    return _constant([[1 / width, 0, -x / width], [0, 1 / height, -y / height], [0, 0, 1]])


# --- colours -------------------------------------------------------------------------------------------------------------


def _jitter(step: ColorJitter, view: View, random: Random) -> None:
    for name, most in (("Brightness", step.brightness), ("Contrast", step.contrast), ("Color", step.saturation)):
        factor = random.uniform(1 - most, 1 + most)
        if most:
            view.colours.append(_enhanced(name, factor))
    if step.hue:
        shift = round(random.uniform(-step.hue, step.hue) * 256)
        view.colours.append(lambda picture: _hue(picture, shift))


def _enhanced(name: str, factor: float) -> Callable[[Any], Any]:
    def enhance(picture: Any) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(picture).enhance(factor)

    return enhance


def _hue(picture: Any, shift: int) -> Any:
    from PIL import Image

    values = np.array(picture.convert("HSV"))
    values[..., 0] += np.uint8(shift % 256)
    return Image.fromarray(values, "HSV").convert("RGB")


def _filtered(name: str, *options: int) -> Callable[[Any], Any]:
    def work(picture: Any) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(picture, *options)

    return work


# --- RandAugment: each changes a view by a strength between 0 and 1 ------------------------------------------------------


def _either_way(most: float, strength: float, random: Random) -> float:
    return most * strength * (1 if random.random() < 0.5 else -1)


def _shear(x: bool, view: View, strength: float, random: Random) -> None:
    slope = _either_way(MOST["shear"], strength, random)
    view.maps.append(lambda proportion: _sheared(slope * proportion, 0) if x else _sheared(0, slope / proportion))


def _sheared(x: float, y: float) -> np.ndarray:
    return np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]])


def _translate(x: bool, view: View, strength: float, random: Random) -> None:
    share = _either_way(MOST["translate"], strength, random)
    view.maps.append(_moved(share, 0) if x else _moved(0, share))


def _rotate(view: View, strength: float, random: Random) -> None:
    view.maps.append(_turned(_either_way(MOST["degrees"], strength, random)))


def _enhance(name: str) -> Callable[[View, float, Random], None]:
    def add(view: View, strength: float, random: Random) -> None:
        view.colours.append(_enhanced(name, 1 + _either_way(MOST["factor"], strength, random)))

    return add


def _posterize(view: View, strength: float, random: Random) -> None:
    view.colours.append(_filtered("posterize", 8 - round(4 * strength)))


def _solarize(view: View, strength: float, random: Random) -> None:
    view.colours.append(_filtered("solarize", round(256 * (1 - strength))))


def _filter(name: str) -> Callable[[View, float, Random], None]:
    return lambda view, strength, random: view.colours.append(_filtered(name))


def _nothing(view: View, strength: float, random: Random) -> None:
    """One of the paper's operations."""


OPERATIONS: tuple[Callable[[View, float, Random], None], ...] = (
    _nothing,
    lambda *how: _shear(True, *how),
    lambda *how: _shear(False, *how),
    lambda *how: _translate(True, *how),
    lambda *how: _translate(False, *how),
    _rotate,
    *(_enhance(name) for name in ("Brightness", "Color", "Contrast", "Sharpness")),
    _posterize,
    _solarize,
    _filter("autocontrast"),
    _filter("equalize"),
)
