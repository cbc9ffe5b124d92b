"""What every measurement keeps: finite values only, and a note for each that is left out."""

import math

from launcher.metrics import LOWER_IS_BETTER, finite, loss_of, named
from launcher.metrics.classification import multi_label
from launcher.metrics.regression import regression


def test_what_is_not_finite_becomes_a_note() -> None:
    found = finite({"a": 1.0, "b": math.nan, "c": math.inf}, {"table": {}}, ["first"])
    assert found.values == {"a": 1.0}
    assert found.details == {"table": {}, "notes": ["first", "b is left out: it is nan", "c is left out: it is inf"]}


def test_a_long_list_of_names_ends_with_their_number() -> None:
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more" and named(["a"]) == "a"


def test_lower_is_better_names_metrics_that_shrink_as_predictions_improve() -> None:
    worse, better = regression([1.0, 5.0], [1.0, 2.0]).values, regression([1.0, 2.5], [1.0, 2.0]).values
    assert {name for name in worse if better[name] < worse[name]} == LOWER_IS_BETTER - {
        "hamming_loss",
        "loss",
        "perplexity",
    }
    wrong, right = (
        multi_label([[0.9, 0.9]], [[1, 0]], ["a", "b"]).values,
        multi_label([[0.9, 0.1]], [[1, 0]], ["a", "b"]).values,
    )
    assert {name for name in wrong if right[name] < wrong[name]} == {"hamming_loss"}


def test_a_loss_of_nothing_is_none() -> None:
    """0 would be the best of all losses."""
    assert loss_of({"pixels": (6.0, 3.0), "dice": (1.0, 2.0), "none": (0.0, 0.0)}) == {"loss": 2.5}
    assert loss_of({"pixels": (0.0, 0.0)}) == {}
