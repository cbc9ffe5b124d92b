"""Regression metrics by hand and against scikit-learn and the textbook, and where a correlation has no meaning."""

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from launcher.metrics.regression import regression


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One row, constants, ties, large offsets and unrelated numbers among the cases."""
    chance = np.random.default_rng(seed)
    rows = int(chance.integers(1, 12))
    references = chance.integers(0, chance.integers(1, 6), rows) + chance.choice([0, 1e6])
    predictions = chance.choice([references, chance.integers(0, 3, rows) / 2, chance.normal(size=rows)], axis=0)
    return predictions.astype(float), references.astype(float)


def slow_pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(set(x)) == 1 or len(set(y)) == 1:
        return None
    x, y = x - math.fsum(x) / len(x), y - math.fsum(y) / len(y)
    return math.fsum(x * y) / math.sqrt(math.fsum(x * x) * math.fsum(y * y))


def mean_ranks(numbers: np.ndarray) -> np.ndarray:
    return np.array([(numbers < n).sum() + ((numbers == n).sum() + 1) / 2 for n in numbers])


def test_a_thousand_cases_equal_scikit_learn_and_the_textbook() -> None:
    for seed in range(1000):
        predictions, references = case(seed)
        expected = {
            "mse": sk.mean_squared_error(references, predictions),
            "mae": sk.mean_absolute_error(references, predictions),
        }
        expected["rmse"] = math.sqrt(expected["mse"])
        if len(set(references)) > 1:
            expected["r2"] = sk.r2_score(references, predictions)
        pearson = slow_pearson(predictions, references)
        if pearson is not None:
            expected["pearson"] = pearson
            expected["spearman"] = slow_pearson(mean_ranks(predictions), mean_ranks(references))
        values = regression(predictions, references).values
        assert values == {name: pytest.approx(value, rel=1e-9, abs=1e-9) for name, value in expected.items()}, seed


def test_by_hand() -> None:
    found = regression([1.0, 2.0, 4.0], [1.0, 3.0, 3.0])
    assert found.values == {
        "mse": pytest.approx(2 / 3),
        "mae": pytest.approx(2 / 3),
        "rmse": pytest.approx(math.sqrt(2 / 3)),
        "r2": pytest.approx(1 - 2 / (8 / 3)),
        "pearson": pytest.approx(math.sqrt(4 / 7)),
        "spearman": pytest.approx(math.sqrt(3) / 2),
    }
    assert set(found.details) == {"curves"}
    exact, rows = found.details["curves"][0]["lines"]
    assert exact["points"] == [[1, 1], [3, 3]] and rows["points"] == [[1, 1], [3, 2], [3, 4]]  # right, predicted


def test_few_of_many_rows_are_drawn_from_the_first_to_the_last() -> None:
    many = np.arange(10_001.0)
    points = regression(many + 0.5, many).details["curves"][0]["lines"][1]["points"]
    assert len(points) == 200 and points[0] == [0, 0.5] and points[-1] == [10_000, 10_000.5]


@pytest.mark.parametrize(
    ("predictions", "references", "left_out"),
    [
        ([1, 1, 1], [1, 2, 3], "pearson and spearman are left out: all predictions"),
        ([1, 2, 3], [2, 2, 2], "pearson, spearman and r2 are left out: all references"),
        ([1], [2], "pearson, spearman and r2 are left out: all references"),
        ([1e300, 1, 2], [1, 2, 3], "mse is left out: it is inf"),
        ([math.inf, 1], [1, 2], "1 of 2 predictions are not finite"),
        ([], [], "no rows"),
    ],
)
def test_what_cannot_be_told_is_left_out_with_a_note(predictions: list, references: list, left_out: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = regression(predictions, references)
    assert all(math.isfinite(value) for value in found.values.values())
    assert any(left_out in note for note in found.details["notes"]), found.details
