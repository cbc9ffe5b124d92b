"""What is measured of predictions against references: pure functions, one file a kind of task."""

from typing import Any, NamedTuple

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mse", "mae", "rmse"})  # of all others, more is better


class Measured(NamedTuple):
    """`values`: metric name -> a finite number. `details`: JSON for people, shown by the report."""

    values: dict[str, float]
    details: dict[str, Any]
