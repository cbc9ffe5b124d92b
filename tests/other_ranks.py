"""A rank on another card than it has."""

import os
from dataclasses import replace

import tiny


def with_memory(words: list[str], card_bytes: int) -> int:
    """`launcher train WORDS` as a rank whose card has so many bytes; its exit code."""
    from launcher import engine

    found = engine.world
    engine.world = lambda: replace(found(), memory_bytes=card_bytes)
    try:
        return tiny.launch(["train", *words])
    finally:
        engine.world = found


def with_choices(words: list[str], strategies: list[str]) -> int:
    """`launcher train WORDS` as ranks for which `auto` chooses differently, by rank: no card makes it shard a tiny model."""
    from launcher import strategy

    found = strategy._choose
    strategy._choose = lambda *_: (strategies[int(os.environ["RANK"])], "auto: for this card")
    try:
        return tiny.launch(["train", *words])
    finally:
        strategy._choose = found
