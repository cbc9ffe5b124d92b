"""GPUs by name: their memory as `torch.cuda.get_device_properties` reports it, which is less than what is sold."""

import re
from dataclasses import dataclass

from launcher.errors import RecipeError
from launcher.suggest import did_you_mean

GIB = 2**30
# GiB that a program can see, rounded down: without what the driver keeps, and without ECC's share where that is on by default.
CARDS = {
    "a10": 21.9,
    "a100-40": 39.3,
    "a100-80": 79.1,
    "a40": 44.3,
    "a6000": 47.4,
    "b200": 178.0,
    "h100": 79.1,
    "h200": 139.8,
    "l4": 21.9,
    "l40s": 44.3,
    "rtx3090": 23.5,
    "rtx4090": 23.5,
    "rtx5090": 31.3,
    "t4": 14.5,
    "v100-16": 15.7,
    "v100-32": 31.7,
}
WITHOUT_BF16 = ("t4", "v100-16", "v100-32")  # which began with Ampere
UNITS = {"gb": 10**9, "gib": GIB}


@dataclass(frozen=True)
class Card:
    """A GPU to plan for."""

    name: str
    memory_bytes: int
    bf16: bool = True


def card(text: str, option: str = "--card") -> Card:
    """From a name (`h100`) or an amount of memory (`24GB`, `22.5GiB`). RecipeError for another, which `option` had."""
    name = text.lower()
    if name in CARDS:
        return Card(name, int(CARDS[name] * GIB), name not in WITHOUT_BF16)
    if (match := re.fullmatch(r"(\d+(?:\.\d+)?)(gb|gib)", name)) and float(match[1]) > 0:
        return Card(text, int(float(match[1]) * UNITS[match[2]]))
    raise RecipeError(
        f"{option} {text} is no card that the launcher knows{did_you_mean(name, CARDS)}",
        fix=f"use one of {', '.join(CARDS)}, or an amount of memory as 24GB or 22.5GiB",
    )


def gib(number_of_bytes: int) -> str:
    """In GiB: two digits after the point below 10, one above."""
    amount = number_of_bytes / GIB
    return f"{amount:.2f}" if amount < 10 else f"{amount:,.1f}"
