"""lr-find: the range test on losses with a known answer, on a quadratic, and on the tiny recipe with one process and two."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny

from launcher import lr_find
from launcher.lr_find import Range, judged

RATES = [Range(1e-6, 10.0, 100).rate(step) for step in range(100)]
RANGE = ["--steps", "12", "--from", "1e-4", "--to", "1e-1"]


def find(recipe: Path, folder: Path, *words: str) -> int:
    return tiny.launch(["lr-find", str(recipe), "--into", str(folder), *words])


def result(folder: Path) -> dict:
    return json.loads((folder / "lr-find.json").read_text())


def test_rates_grow_by_one_factor_from_end_to_end() -> None:
    factors = {round(b / a, 9) for a, b in zip(RATES, RATES[1:], strict=False)}
    assert len(factors) == 1 and RATES[0] == 1e-6 and RATES[-1] == pytest.approx(10.0)


def test_smoothing_is_the_weighted_mean_of_all_losses_so_far() -> None:
    losses = [3.0, 1.0, 4.0, 1.0, 5.0]
    for n, value in enumerate(lr_find.smoothed(losses), 1):
        weights = [0.98 ** (n - 1 - i) for i in range(n)]
        assert value == pytest.approx(sum(w * x for w, x in zip(weights, losses[:n], strict=True)) / sum(weights))


def test_suggestions_are_where_the_smoothed_loss_falls_fastest_and_a_tenth_of_its_minimum() -> None:
    """A plateau, a fall around step 50, and a rise from step 80 on."""
    losses = [4.0 - 3.0 / (1 + math.exp(-(i - 50) / 3)) + max(0, i - 80) * 0.5 for i in range(100)]
    found = judged(RATES, losses, "")
    values = found.smoothed
    slowest = max(range(11, 100), key=lambda i: values[i - 1] - values[i])
    assert found.steepest == RATES[slowest] and 45 < slowest < 70
    assert found.tenth == RATES[values.index(min(values))] / 10
    assert f"optimizer.learning_rate={found.steepest:.2e}" in found.verdict and "beyond" not in found.verdict


def test_a_minimum_at_the_end_of_the_range_is_said_to_be_none() -> None:
    assert "may lie beyond" in judged(RATES, [4.0 - 0.02 * i for i in range(100)], "").verdict


@pytest.mark.parametrize("losses", [[2.0] * 100, [2.0 + 0.01 * i for i in range(100)], [2.0, 1.0] * 50, [2.0, 1.0]])
def test_a_loss_that_does_not_fall_gets_no_suggestion(losses: list[float]) -> None:
    """Level, rising, as noisy as it is level, and too short to tell."""
    found = judged(RATES[: len(losses)], losses, "")
    assert (found.steepest, found.tenth) == (None, None) and found.verdict.startswith("no suggestion")


def test_a_quadratic_explodes_beyond_the_rate_that_its_curvature_allows() -> None:
    """Gradient descent on x * x / 2 * h diverges from 2 / h on; before, the best single rate is 1 / h."""
    h, x, losses = 4.0, 1.0, []
    for rate in RATES:
        losses.append(1.0 + h * x * x / 2)
        if lr_find.has_exploded(lr_find.smoothed(losses)):
            break
        x -= rate * h * x
    assert rate > 2 / h
    assert (
        losses[-2] < 4 / 0.02 <= 2 * losses[-1]
    )  # a single loss of 4 / 0.02 lifts the average to 4 times the lowest, which is 1
    found = judged(RATES[: len(losses)], losses, "")
    assert found.steepest is not None and 0.01 / h < found.steepest < 2 / h


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_find_what_one_finds(recipe: Path, tmp_path: Path, strategy: str) -> None:
    assert find(recipe, tmp_path / "one", *RANGE) == 0
    one = result(tmp_path / "one")
    assert one["rates"][0] == 1e-4 and len(one["losses"]) == 12
    words = ["lr-find", str(recipe), "--into", str(tmp_path / strategy), f"distributed.strategy={strategy}", *RANGE]
    assert tiny.Ranks(2, words, tmp_path / "log").wait() == [0, 0], (tmp_path / "log").read_text()[-3000:]
    two = result(tmp_path / strategy)
    assert two["rates"] == one["rates"] and two["losses"] == pytest.approx(one["losses"], rel=1e-4)


def test_an_explosion_ends_all_ranks_and_leaves_only_the_result(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    sgd = ["optimizer={name: sgd}", "training.max_grad_norm=null", "method=full", "adapter=null"]
    words = ["lr-find", str(recipe), "--into", str(folder), *sgd, "--steps", "40", "--from", "1", "--to", "1e9"]
    assert tiny.Ranks(2, words, tmp_path / "log").wait() == [0, 0], (tmp_path / "log").read_text()[-3000:]
    found = result(folder)
    assert len(found["losses"]) < 40 and ("exploded" in found["ended"] or "is nan" in found["ended"])
    assert sorted(path.name for path in folder.iterdir()) == ["lr-find.json", "lr-find.svg"]
    ElementTree.parse(folder / "lr-find.svg")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "9"], "--steps 9 is less than 10"),
        (["--from", "1", "--to", "0.1"], "is no range of learning rates"),
        (["--from", "0"], "is no range of learning rates"),
        (["--to", "nan"], "is no range of learning rates"),
        (["optimizer.lr=1"], "optimizer.lr"),
    ],
)
def test_bad_input_is_refused(recipe: Path, tmp_path: Path, capsys, words: list[str], said: str) -> None:
    assert find(recipe, tmp_path / "new", *words) == 89
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_left_alone(recipe: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").touch()
    assert find(recipe, tmp_path) == 89
    assert "--into is not an empty folder" in capsys.readouterr().err
