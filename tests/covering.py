"""A small set of rows in which every combination of so many choices occurs that any allowed row has (a covering array).

Greedy: the row with the most combinations that are still missing comes next. Of n allowed rows this looks at n for each row taken.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TypeVar

Row = TypeVar("Row", bound=tuple[str, ...])


def cover(rows: Sequence[Row], strength: int = 3) -> list[Row]:
    """Some of `rows` that hold every combination of `strength` choices of all of them; the same ones every time."""
    missing = {row: combinations_of(row, strength) for row in rows}
    left = set().union(*missing.values())
    taken = []
    while left:
        best = max(missing, key=lambda row: len(missing[row] & left))
        taken.append(best)
        left -= missing.pop(best)
    return taken


def combinations_of(row: Row, strength: int) -> frozenset[tuple[tuple[int, str], ...]]:
    """Combinations of (position, value) pairs of a row."""
    return frozenset(combinations(enumerate(row), strength))
