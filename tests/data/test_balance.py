"""Rows by their labels: as often each, and of the frequent ones others in every epoch."""

from collections import Counter

import numpy as np
import pytest

from launcher.data.balance import balanced
from launcher.data.order import Order, Source

LABELS = ["rare"] * 3 + ["some"] * 20 + ["most"] * 77


def order(sources: tuple[Source, ...]) -> Order:
    return Order(np.ones(len(LABELS)), sources, seed=3, global_batch_size=4)


def drawn(made: Order, epoch: int) -> list[int]:
    return [int(row) for (row,) in made.units(epoch)]


def test_every_label_comes_up_as_often_and_every_rare_row() -> None:
    made = order(balanced((Source(np.arange(100)),), LABELS))
    for epoch in range(3):
        rows = drawn(made, epoch)
        counts = Counter(LABELS[row] for row in rows)
        assert len(rows) == 100 and set(counts.values()) == {33, 34}
        assert {rows.count(row) for row in range(3)} == {11, 12}
    first, second = ({row for row in drawn(made, epoch) if LABELS[row] == "most"} for epoch in (0, 1))
    assert len(first) == len(second) == 33 and first != second
    assert len(set().union(*(drawn(made, epoch) for epoch in range(12)))) > 95


def test_labels_that_are_even_are_drawn_as_they_are() -> None:
    labels = ["a", "b"] * 3
    plain = Order(np.ones(6), (Source(np.arange(6)),), seed=3, global_batch_size=4)
    even = Order(np.ones(6), balanced((Source(np.arange(6)),), labels), seed=3, global_batch_size=4)
    assert sorted(drawn(even, 0)) == sorted(drawn(plain, 0))
    assert even.steps_in(0) == plain.steps_in(0)


def test_a_source_with_three_times_the_weight_comes_up_three_times_as_often_within_each_label() -> None:
    labels = ["a", "b", "b", "b"] * 30
    sources = (Source(np.arange(60), 3.0), Source(np.arange(60, 120), 1.0))
    rows = [row for epoch in range(20) for row in drawn(Order(np.ones(120), balanced(sources, labels), 3, 4), epoch)]
    counts = Counter((labels[row], row < 60) for row in rows)
    assert len(rows) == pytest.approx(20 * (3 * 60 + 60), rel=0.01)
    for label in "ab":
        assert counts[label, True] == pytest.approx(3 * counts[label, False], rel=0.05)
        assert counts[label, True] + counts[label, False] == pytest.approx(len(rows) / 2, rel=0.01)
