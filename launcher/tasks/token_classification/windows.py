"""Sentences that are too long for the model, cut between words into windows that see some words of their neighbours."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

SHARE_OF_CONTEXT = 4  # a window shows up to a fourth of its pieces on either side of its own


class Window(NamedTuple):
    """Words [first, last) are shown to the model, and of them [own_first, own_last) are tagged: each word in one window."""

    first: int
    own_first: int
    own_last: int
    last: int


def windows(pieces: Sequence[int], room: int) -> Iterator[Window]:
    """Windows of at most `room` pieces, in order. `pieces`: of each word, at most `room`."""
    context, own_first = room // SHARE_OF_CONTEXT, 0
    while own_first < len(pieces):
        first = own_first - _fitting(pieces[:own_first][::-1], min(context, room - pieces[own_first]))
        last = first + _fitting(pieces[first:], room)
        own_last = last
        if last < len(pieces):
            own_last = max(own_first + 1, last - _fitting(pieces[:last][::-1], context))
        yield Window(first, own_first, own_last, last)
        own_first = own_last


def _fitting(pieces: Sequence[int], room: int) -> int:
    """How many of the first words fit."""
    used = 0
    for number, size in enumerate(pieces):
        used += size
        if used > room:
            return number
    return len(pieces)
