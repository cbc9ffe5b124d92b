"""Learning-rate factors at the places where an off-by-one would show."""

import math

import pytest

from launcher.schedules import SCHEDULES, factor

TOTAL, WARMUP, DECAY = 100, 10, 18


def at(name: str, step: int, min_lr_ratio: float = 0.1, warmup_steps: int = WARMUP, decay_steps: int = DECAY) -> float:
    return factor(name, step, TOTAL, warmup_steps, min_lr_ratio, decay_steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_evenly_from_above_zero_to_one(name):
    assert [at(name, step) for step in range(WARMUP + 1)] == pytest.approx([(s + 1) / 11 for s in range(11)])
    assert at(name, WARMUP) == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warmup_the_first_step_is_whole(name):
    assert at(name, 0, warmup_steps=0) == 1.0


@pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("constant", 1.0),
        ("linear", 0.55),
        ("cosine", 0.55),
        ("exponential", math.sqrt(0.1)),
        ("wsd", 1.0),
    ],
)
def test_middle_and_end(name, middle):
    assert at(name, 55) == pytest.approx(middle)  # half way from 10 to 100
    assert at(name, TOTAL) == pytest.approx(1.0 if name == "constant" else 0.1)


def test_a_quarter_tells_cosine_from_linear():
    assert at("cosine", 10 + 30, 0.0) == pytest.approx(0.75)  # cos(pi/3) = 1/2
    assert at("linear", 10 + 30, 0.0) == pytest.approx(2 / 3)


def test_wsd_is_flat_until_its_decay():
    assert at("wsd", TOTAL - DECAY) == 1.0
    assert at("wsd", TOTAL - DECAY // 2) == pytest.approx(0.55)
    assert at("wsd", 50, decay_steps=10 * TOTAL) == pytest.approx(at("linear", 50))  # no longer than what is left


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("min_lr_ratio", [0.1, 1.0])
def test_no_jumps_and_no_rise_after_the_warmup(name, min_lr_ratio):
    values = [at(name, step, min_lr_ratio) for step in range(WARMUP, TOTAL + 1)]
    drops = [a - b for a, b in zip(values, values[1:], strict=False)]
    assert min(drops) >= -1e-12
    assert max(drops) <= 1 / DECAY
    assert min(values) >= min_lr_ratio - 1e-12


@pytest.mark.parametrize("name", SCHEDULES)
def test_past_the_end_it_stays(name):
    assert at(name, 10 * TOTAL) == at(name, TOTAL)


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_warmup_does_not_divide_by_zero(name):
    assert math.isfinite(at(name, TOTAL, warmup_steps=TOTAL))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_run_goes_on_with_the_same_values(name):
    """The step number is the only state: asking out of order changes nothing."""
    straight = [at(name, step) for step in range(TOTAL)]
    assert [at(name, step) for step in reversed(range(TOTAL))] == straight[::-1]
