"""The order of rows is a function of the seed, whatever the world looks like."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from launcher.data.order import Order, Source, sequential


def made(rows: int = 23, weights: tuple[float, ...] = (1.0,), global_batch_size: int = 4, **options: Any) -> Order:
    sizes = [rows // len(weights)] * len(weights)
    starts = np.cumsum([0, *sizes])
    listed = tuple(Source(np.arange(a, a + size), w) for a, size, w in zip(starts, sizes, weights, strict=False))
    lengths = np.random.default_rng(5).integers(2, 30, sum(sizes)).astype(np.int32)
    return Order(lengths, listed, options.pop("seed", 7), global_batch_size, **options)


def rows_of(units: Any) -> list[int]:
    return [int(i) for unit in units for i in unit]


def random_orders() -> list[Order]:
    chance = random.Random(0)
    return [
        made(
            rows=chance.randint(3, 80),
            weights=tuple(chance.choice([1.0, 2.0, 0.5, 1.5, 0.3]) for _ in range(chance.randint(1, 3))),
            global_batch_size=chance.randint(1, 9),
            capacity=chance.choice([None, 30, 64]),
            seed=chance.randint(0, 99),
        )
        for _ in range(40)
    ]


@pytest.mark.parametrize("capacity", [None, 40])
def test_an_epoch_is_every_row_once_and_epochs_and_seeds_differ(capacity: int | None) -> None:
    epochs = [rows_of(made(capacity=capacity).units(epoch)) for epoch in range(3)]
    epochs.append(rows_of(made(capacity=capacity, seed=8).units(0)))
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_packed_units_keep_to_the_capacity_and_meet_other_rows_in_other_epochs() -> None:
    order = made(rows=200, capacity=64)
    bins = [{frozenset(rows_of([unit])) for unit in order.units(epoch)} for epoch in range(2)]
    assert all(order.lengths[list(members)].sum() <= 64 for members in bins[0] | bins[1])
    assert len(bins[0]) == len(bins[1])
    assert bins[0] != bins[1]


@pytest.mark.parametrize("capacity", [None, 40])
def test_a_step_holds_the_same_rows_however_it_is_cut(capacity: int | None) -> None:
    order = made(rows=61, global_batch_size=4, capacity=capacity)
    for step in range(2 * order.steps_in(0)):
        whole = rows_of(order.micro_batches(step, 4, 1)[0])
        for per_device, count in ((2, 2), (1, 4)):
            cut = order.micro_batches(step, per_device, count)
            assert len(cut) == count and all(len(units) <= per_device for units in cut)
            assert [i for units in cut for i in rows_of(units)] == whole


def test_the_steps_of_an_epoch_are_the_epoch_and_its_last_may_run_short() -> None:
    order = made(rows=23, global_batch_size=4)
    steps = [order.micro_batches(step, 2, 2) for step in range(order.steps_in(0))]
    assert sorted(i for step in steps for units in step for i in rows_of(units)) == list(range(23))
    assert [sum(len(units) for units in step) for step in steps] == [4, 4, 4, 4, 4, 3]
    assert [len(units) for units in made(rows=5).micro_batches(1, 1, 4)] == [1, 0, 0, 0]


def test_a_cut_that_would_leave_rows_out_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        made(global_batch_size=4).micro_batches(0, 1, 3)


@pytest.mark.parametrize("weight", [2.0, 1.5, 0.5, 3.25])
def test_weights_draw_rows_as_often_as_they_say(weight: float) -> None:
    order = made(rows=40, weights=(1.0, weight))
    for epoch in range(3):
        drawn = Counter(rows_of(order.units(epoch)))
        assert all(drawn[row] == 1 for row in range(20))
        assert sum(drawn[row] for row in range(20, 40)) == 20 * weight
        assert all(int(weight) <= drawn[row] <= int(weight) + 1 for row in range(20, 40))


def test_a_fraction_is_another_sample_in_each_epoch_and_never_nothing() -> None:
    order = made(rows=40, weights=(1.0, 0.5))
    samples = {frozenset(i for i in rows_of(order.units(epoch)) if i >= 20) for epoch in range(4)}
    assert len(samples) == 4
    assert len(made(rows=1, weights=(0.1,)).units(0)) == 1


def test_locate_counts_back_what_counting_forward_gives() -> None:
    for order in random_orders():
        counted = [(epoch, index) for epoch in range(3) for index in range(order.steps_in(epoch))]
        assert [order.locate(step) for step in range(len(counted))] == counted
        assert order.total_steps(3) == len(counted)
        assert order.epoch_after(len(counted)) == 3.0
        assert order.epoch_after(0) == 0.0


def test_all_steps_of_a_run_are_its_epochs() -> None:
    for order in random_orders():
        seen = [
            int(i)
            for step in range(order.total_steps(2))
            for unit in order.micro_batches(step, order.global_batch_size, 1)[0]
            for i in unit
        ]
        assert Counter(seen) == Counter(rows_of(order.units(0)) + rows_of(order.units(1)))


@pytest.mark.parametrize("epochs", [0.1, 0.5, 1.0, 1.1, 2.1, 2.5, 3.0, 7.3])
def test_part_of_an_epoch_is_rounded_up_and_rounding_errors_are_not(epochs: float) -> None:
    assert made(rows=40).steps_in(0) == 10
    assert made(rows=40).total_steps(epochs) == round(epochs * 10)
    assert made(rows=40).total_steps(0.01) == 1


def test_order_does_not_depend_on_what_was_asked_before_nor_on_who_asks_at_once() -> None:
    fresh = {step: rows_of(made(capacity=40).micro_batches(step, 4, 1)[0]) for step in range(12)}
    order = made(capacity=40)
    chance = random.Random(1)
    asked = [chance.choice(list(fresh)) for _ in range(400)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda step: rows_of(order.micro_batches(step, 4, 1)[0]), asked)
        assert list(found) == [fresh[step] for step in asked]


def test_neighbours_in_length_share_a_micro_batch() -> None:
    order = made(rows=64, global_batch_size=16)
    longest = [[order.lengths[unit].sum() for unit in units] for units in order.micro_batches(0, 4, 4)]
    assert all(max(a) <= min(b) for a, b in zip(longest, longest[1:], strict=False))


def test_evaluation_sees_each_row_once_longest_first() -> None:
    batches = sequential([3, 9, 5, 9, 1], 2)
    assert batches == [[1, 3], [2, 0], [4]]
    assert sequential([], 2) == []
