"""GPUs by name, and their memory: what `torch.cuda.get_device_properties` reports, which is less than what is sold."""

import re

from launcher.errors import RecipeError

GIB = 2**30
# GiB that a program can see, rounded down: without what the driver keeps, and without ECC's share where that is on by default.
CARDS = {
    "a10": 21.9,
    "a100-40": 39.3,
    "a100-80": 79.1,
    "a40": 44.3,
    "a6000": 47.4,
    "b200": 178.0,
    "gh200": 94.5,
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
UNITS = {"gb": 10**9, "gib": GIB, "mb": 10**6, "mib": 2**20}


def memory_of(text: str) -> int:
    """Bytes of a card by its name (`h100`), or of an amount (`24GB`, `22.5GiB`)."""
    word = text.lower().replace(" ", "").removeprefix("nvidia-")
    if word in CARDS:
        return int(CARDS[word] * GIB)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(gb|gib|mb|mib)", word):
        return int(float(match[1]) * UNITS[match[2]])
    raise RecipeError(
        f"--card {text} is no card that the launcher knows", fix=f"use one of {', '.join(CARDS)}, or an amount as 24GB"
    )


def gib(number_of_bytes: int) -> str:
    """Two digits after the point below 10 GiB, one above."""
    amount = number_of_bytes / GIB
    return f"{amount:.2f}" if amount < 10 else f"{amount:,.1f}"
