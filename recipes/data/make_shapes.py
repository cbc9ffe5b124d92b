"""Makes the pictures of the recipes for images: `python recipes/data/make_shapes.py`, which takes a second.

    shapes_{train,eval}.parquet   image, label: a circle, a square or a triangle on a coloured ground
    scenes_{train,eval}.parquet   image, mask, boxes, labels: up to four of them, some behind others

A mask is 0 for the ground and 1, 2, 3 for the kinds in the order of KINDS. A box is [x, y, width, height] in pixels.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle")
SIDE = 64  # pixels
FOLDER = Path(__file__).parent


def ground(chance: np.random.Generator) -> Image.Image:
    """A dark colour."""
    return Image.new("RGB", (SIDE, SIDE), tuple(map(int, chance.integers(0, 90, 3))))


def outline(kind: str, chance: np.random.Generator, least: int, most: int) -> tuple[list[tuple[float, float]], Any]:
    """Corners of a polygon that lies inside the picture, turned by up to 15 degrees, and a bright colour."""
    radius = chance.integers(least, most + 1)
    centre = chance.integers(radius + 1, SIDE - radius - 1, 2)
    number, first = {"circle": (40, 0.0), "square": (4, np.pi / 4), "triangle": (3, -np.pi / 2)}[kind]
    angles = first + chance.uniform(-1, 1) * np.pi / 12 + np.arange(number) * 2 * np.pi / number
    corners = [(float(centre[0] + radius * np.cos(a)), float(centre[1] + radius * np.sin(a))) for a in angles]
    return corners, tuple(map(int, chance.integers(130, 256, 3)))


def png(picture: Image.Image) -> dict[str, Any]:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return {"bytes": content.getvalue(), "path": None}


def shape(number: int, chance: np.random.Generator) -> dict[str, Any]:
    picture, kind = ground(chance), KINDS[number % len(KINDS)]
    corners, colour = outline(kind, chance, 8, 27)
    ImageDraw.Draw(picture).polygon(corners, fill=colour)
    return {"image": png(picture), "label": kind}


def scene(chance: np.random.Generator) -> dict[str, Any]:
    """Later shapes lie on earlier ones; one that is hidden by more than half is left out."""
    picture, mask = ground(chance), np.zeros((SIDE, SIDE), np.uint8)
    found: list[tuple[np.ndarray, str]] = []
    for kind in chance.choice(KINDS, chance.integers(1, 5)):
        corners, colour = outline(kind, chance, 6, 16)
        drawn = Image.new("1", picture.size)
        ImageDraw.Draw(drawn).polygon(corners, fill=1)
        inside = np.asarray(drawn)
        if any((inside & other).sum() > 0.5 * other.sum() for other, _ in found):
            continue
        ImageDraw.Draw(picture).polygon(corners, fill=colour)
        mask[inside] = 1 + KINDS.index(kind)
        found.append((inside, str(kind)))
    boxes = [box(inside) for inside, _ in found]
    return {"image": png(picture), "mask": png(Image.fromarray(mask)), "boxes": boxes, "labels": [k for _, k in found]}


def box(inside: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]


def write(name: str, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), FOLDER / f"{name}.parquet", compression="zstd")


if __name__ == "__main__":
    for part, seed, shapes, scenes in (("train", 0, 300, 160), ("eval", 1, 60, 40)):
        chance = np.random.default_rng(seed)
        write(f"shapes_{part}", [shape(index, chance) for index in range(shapes)])
        write(f"scenes_{part}", [scene(chance) for _ in range(scenes)])
