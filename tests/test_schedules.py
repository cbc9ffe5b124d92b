"""Learning-rate factors at the places where an off-by-one would show."""

import math
from dataclasses import replace

import pytest

from launcher.schedules import SCHEDULES, Options, factor

TOTAL, WARMUP, DECAY = 100, 10, 18
OPTIONS = Options(0.1, decay_steps=DECAY, num_cycles=3, power=2.0, step_size=30, gamma=0.5, timescale=WARMUP)
FALLING = [
    name for name in SCHEDULES if name not in ("cosine_with_restarts", "step")
]  # evenly, and without rising again


def at(name: str, step: int, min_lr_ratio: float = 0.1, warmup_steps: int = WARMUP, **changes: float) -> float:
    return factor(name, step, TOTAL, warmup_steps, replace(OPTIONS, min_lr_ratio=min_lr_ratio, **changes))


def formula(name: str, t: int, n: int, low: float) -> float:
    """Of step t of the n after the warmup, written down once more from the papers and from PyTorch's documentation."""
    wave = (1 + math.cos(math.pi * t / n)) / 2
    cycle = n / 3
    formulas = {
        "constant": 1.0,
        "linear": 1 - (1 - low) * t / n,
        "cosine": low + (1 - low) * wave,
        "one_cycle": low + (1 - low) * wave,
        "cosine_with_restarts": low + (1 - low) * (1 + math.cos(math.pi * (t - cycle * (t // cycle)) / cycle)) / 2,
        "polynomial": low + (1 - low) * (1 - t / n) ** 2,
        "exponential": low ** (t / n),
        "step": max(low, 0.5 ** math.floor(t / 30)),
        "inverse_sqrt": max(low, math.sqrt(WARMUP) / math.sqrt(t + WARMUP)),
        "reduce_on_plateau": 1.0,
        "wsd": 1.0 if t < n - DECAY else low + (1 - low) * (n - t) / DECAY,
    }
    return formulas[name]


@pytest.mark.parametrize("low", [0.1, 0.02])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_the_closed_formula(name, low):
    n = TOTAL - WARMUP
    for t in range(n):
        assert at(name, WARMUP + t, low) == pytest.approx(formula(name, t, n, low), rel=1e-9), t


def test_those_that_pytorch_has_are_its():
    """Over the steps after a warmup, which PyTorch's have not."""
    torch = pytest.importorskip("torch")
    length, rate = torch.optim.lr_scheduler, 1.0

    def values(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        scheduler = make(optimizer)
        found = []
        for _ in range(TOTAL):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    theirs = {
        "step": lambda o: length.StepLR(o, 30, 0.5),
        "polynomial": lambda o: length.PolynomialLR(o, TOTAL, 2.0),
        "cosine": lambda o: length.CosineAnnealingLR(o, TOTAL),
        "cosine_with_restarts": lambda o: length.CosineAnnealingWarmRestarts(o, 25),
    }
    for name, make in theirs.items():
        ours = [at(name, step, 0.0, warmup_steps=0, num_cycles=4) for step in range(TOTAL)]
        assert ours == pytest.approx(values(make), abs=1e-9), name


def test_the_warmup_of_one_cycle_is_half_a_cosine():
    found = [at("one_cycle", step) for step in range(WARMUP + 1)]
    assert found == pytest.approx([0.04 + 0.96 * (1 - math.cos(math.pi * s / 10)) / 2 for s in range(11)])


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one_cycle"])
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


@pytest.mark.parametrize("name", FALLING)
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
