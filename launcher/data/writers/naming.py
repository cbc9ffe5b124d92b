"""Names of files that a converted data set is made of: those that the pictures and sounds have, where these keep the order of
the rows, else numbers."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.data.formats.layout import PICTURES, SOUNDS
from launcher.data.writers.writer import Facts
from launcher.errors import DataError

MOST_BYTES = 255  # in the name of a file
PLAIN = re.compile(r"[^\W_]([^\x00-\x1f/\x7f]*\S)?")  # neither hidden nor with spaces at its ends
SUFFIX_OF = {  # the first bytes of a file: (where, what) -> suffix
    (0, b"\x89PNG\r\n\x1a\n"): ".png",
    (0, b"\xff\xd8\xff"): ".jpg",
    (0, b"GIF8"): ".gif",
    (0, b"BM"): ".bmp",
    (0, b"II*\0"): ".tif",
    (0, b"MM\0*"): ".tif",
    (8, b"WEBP"): ".webp",
    (0, b"P6"): ".ppm",
    (0, b"P5"): ".pgm",
    (0, b"P4"): ".pbm",
    (8, b"WAVE"): ".wav",
    (0, b"fLaC"): ".flac",
    (0, b"OggS"): ".ogg",
    (0, b"ID3"): ".mp3",
    (0, b"\xff\xfb"): ".mp3",
    (8, b"AIFF"): ".aiff",
    (0, b".snd"): ".au",
}


def suffix_of(content: bytes, path: str, where: str) -> str:
    """The suffix by which a reader finds a picture or sound: its own, or the one that its first bytes tell."""
    suffix = Path(path).suffix
    if suffix.lower() in (*PICTURES, *SOUNDS):
        return suffix
    for (place, mark), known in SUFFIX_OF.items():
        if content.startswith(mark, place):
            return known
    raise DataError(
        "a file of pictures or sounds of no kind that is known", where=where, fix="give it the suffix of its kind"
    )


def is_name(text: str) -> bool:
    """Whether a folder can be called so, and is seen: `.x` is hidden."""
    return (
        text not in ("", ".", "..")
        and not text.startswith(".")
        and "/" not in text
        and "\0" not in text
        and len(text.encode()) <= MOST_BYTES
    )


def numbered(facts: Facts, number: int) -> str:
    """All of the same length, so that they are in the order of the numbers."""
    return f"{number + 1:0{max(6, len(str(facts.rows)))}}"


def in_classes(facts: Facts) -> Callable[[int, str, str], str]:
    """CLASS/NAME: the folders are the labels."""
    by_class: dict[str, list[str]] = {}
    for label, path in facts.files:
        by_class.setdefault(label, []).append(Path(path).name)
    stay = all(keeps_order(names) for names in by_class.values()) and _are_media(facts)

    def place(number: int, column: str, suffix: str) -> str:
        label, path = facts.files[number]
        return f"{label}/{Path(path).name if stay else numbered(facts, number) + suffix}"

    return place


def in_pairs(facts: Facts) -> Callable[[int, str, str], str]:
    """images/NAME and masks/NAME, each with its suffix; by the name without it they find each other."""
    names = [Path(path) for _, path in facts.files]
    stay = keeps_order([name.name for name in names]) and _are_media(facts)
    stay = stay and len({name.stem for name in names}) == len(names)

    def place(number: int, column: str, suffix: str) -> str:
        return f"{column}s/{names[number].stem if stay else numbered(facts, number)}{suffix}"

    return place


def annotations(facts: Facts) -> Callable[[int], str]:
    """NAME.xml: the file that describes a picture."""
    names = [f"{Path(path).stem}.xml" for _, path in facts.files]
    stay = keeps_order(names)
    return lambda number: names[number] if stay else f"{numbered(facts, number)}.xml"


def keeps_order(names: Sequence[str]) -> bool:
    """Whether files of these names are read in this order, and each is seen."""
    ascend = all(before < after for before, after in zip(names, names[1:], strict=False))
    return ascend and all(PLAIN.fullmatch(name) for name in names)


def _are_media(facts: Facts) -> bool:
    return all(Path(path).suffix.lower() in (*PICTURES, *SOUNDS) for _, path in facts.files)
