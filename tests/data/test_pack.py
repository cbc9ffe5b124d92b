"""Best-fit decreasing against a slow one and against the best packing there is."""

import random
import time

import numpy as np
import pytest

from launcher.data.pack import best_fit

CASES = range(200)


def case(seed: int, largest: int = 40) -> tuple[list[int], int]:
    chance = random.Random(seed)
    capacity = chance.randint(1, largest)
    return [chance.randint(1, capacity) for _ in range(chance.randint(0, largest))], capacity


def slow_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Totals of the bins, sorted: each length, longest first, into the fullest bin that holds it."""
    totals: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, total in enumerate(totals) if total + length <= capacity]
        if fitting:
            totals[max(fitting, key=totals.__getitem__)] += length
        else:
            totals.append(length)
    return sorted(totals)


def fewest_bins(lengths: list[int], capacity: int) -> int:
    """By trying everything, largest first, one empty bin at a time."""
    best = len(lengths)

    def place(index: int, totals: list[int]) -> None:
        nonlocal best
        if len(totals) >= best and index < len(ordered):
            return
        if index == len(ordered):
            best = min(best, len(totals))
            return
        for i in {total: i for i, total in enumerate(totals)}.values():
            if totals[i] + ordered[index] <= capacity:
                place(index + 1, [*totals[:i], totals[i] + ordered[index], *totals[i + 1 :]])
        place(index + 1, [*totals, ordered[index]])

    ordered = sorted(lengths, reverse=True)
    place(0, [])
    return best


@pytest.mark.parametrize("seed", CASES)
def test_every_row_is_in_one_bin_and_the_bins_are_those_of_slow_best_fit(seed: int) -> None:
    lengths, capacity = case(seed)
    bins = best_fit(lengths, capacity)
    assert sorted(index for members in bins for index in members.tolist()) == list(range(len(lengths)))
    totals = sorted(sum(lengths[i] for i in members) for members in bins)
    assert max(totals, default=0) <= capacity
    assert totals == slow_best_fit(lengths, capacity)


@pytest.mark.parametrize("seed", range(60))
def test_few_bins_are_wasted(seed: int) -> None:
    lengths, capacity = case(seed, largest=12)
    assert len(best_fit(lengths, capacity)) <= 11 / 9 * fewest_bins(lengths, capacity) + 1


def test_the_same_lengths_give_the_same_bins_whatever_holds_them() -> None:
    lengths, capacity = case(3)
    first, second = best_fit(lengths, capacity), best_fit(np.asarray(lengths, np.int32), capacity)
    assert [members.tolist() for members in first] == [members.tolist() for members in second]


def test_a_row_that_fits_nowhere_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 tokens does not fit into 4"):
        best_fit([1, 5], 4)


def test_a_hundred_thousand_rows_take_seconds_and_almost_fill_their_bins() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 300, 100_000).clip(1, 2048)
    started = time.process_time()
    bins = best_fit(lengths, 2048)
    assert time.process_time() - started < 5
    assert lengths.sum() / (len(bins) * 2048) > 0.99
