"""Several examples in one row: best-fit decreasing, a pure function of the lengths."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def best_fit(lengths: Sequence[int], capacity: int) -> list[np.ndarray]:
    """Bins of indices into `lengths`, none longer than `capacity` in total.

    Longest first, each into the fullest bin that still holds it. O(n log n).
    Johnson's best-fit decreasing: at most 11/9 of the optimal number of bins, plus a constant.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # the keys of by_room that hold a bin, sorted
    for index in order.tolist():
        length = int(lengths[index])
        if length > capacity:
            raise ValueError(f"an example of {length} tokens does not fit into {capacity}")
        at = bisect_left(rooms, length)
        if at == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[at]
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(at)
        bins[chosen].append(index)
        left = room - length
        if left and not by_room[left]:
            insort(rooms, left)
        if left:
            by_room[left].append(chosen)
    return [np.asarray(members) for members in bins]
