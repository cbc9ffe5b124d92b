"""Pictures inside the page itself, scaled down so that a report stays a file that one can send."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGER_SIDE_PIXELS = 512
# Several pictures beside each other would be too small to read at that width.
BANNER_ASPECT, BANNER_LONGER_SIDE_PIXELS = 2.0, 1536
LOSSLESS_PIXELS = 128  # up to here PNG costs little, and JPEG would blur the few pixels there are
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Embedded:
    """A data: URI with its size in pixels, or the sentence that says why there is none."""

    file: str
    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def banner(self) -> bool:
        return self.width >= BANNER_ASPECT * self.height and self.width > LONGER_SIDE_PIXELS


def embedded(folder: Path, file: str) -> Embedded:
    """The picture `file` (relative to `folder`, and inside it); what cannot be read is said, never raised."""
    try:
        path = (folder / file).resolve()
        if not path.is_relative_to(folder.resolve()):
            return Embedded(file, problem="lies outside the run folder and is not shown")
        if not path.is_file():
            return Embedded(file, problem="is missing")
        picture = _scaled_down(path)
    except ImportError:
        return Embedded(file, problem="is not shown, because pillow is not installed")
    # A name may be none that a file can have, and PIL's readers raise what they like on a broken file.
    except Exception as error:
        return Embedded(file, problem=f"cannot be read as a picture ({type(error).__name__})")
    return Embedded(file, _data_uri(picture), *picture.size)


def _scaled_down(path: Path) -> Any:
    """An RGB picture, upright, with white where it was transparent."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        wide = file.width >= BANNER_ASPECT * file.height
        longest = BANNER_LONGER_SIDE_PIXELS if wide else LONGER_SIDE_PIXELS
        file.thumbnail((longest, longest))
        upright = ImageOps.exif_transpose(file)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    clear = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _data_uri(picture: Any) -> str:
    kind = "png" if max(picture.size) <= LOSSLESS_PIXELS else "jpeg"
    content = io.BytesIO()
    # Whole colour resolution: thin coloured lines are what these pictures are about.
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "jpeg" else {"optimize": True}
    picture.save(content, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
