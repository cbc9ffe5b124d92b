"""Kinds of values that several sections take."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from launcher.section import Expect, freeze


def _whole_or_share(value: float) -> float:
    if isinstance(value, float) and value >= 1 or value < 0:
        raise ValueError
    return value


def _selector(value: str) -> str:
    """Brackets belong to `layers` alone; in a pattern of names they would mean a set of characters."""
    if "[" in value and (not LAYERS.fullmatch(value) or value == "layers[]"):
        raise ValueError(f"{value} is no selection; write layers[3], layers[-2:] or layers[:6]")
    return value


LAYERS = re.compile(r"layers\[(-?\d+)?(:)?(-?\d+)?\]")

WEEK_MINUTES = 10_080

Positive = Annotated[int, Field(ge=1)]

Text = Annotated[str, Field(min_length=1)]

FrozenMapping = Annotated[dict[str, Any], AfterValidator(freeze)]

FrozenNames = Annotated[dict[str, str], AfterValidator(freeze)]

LabelNames = Annotated[dict[str, Text], AfterValidator(freeze)]

Selector = Annotated[Text, AfterValidator(_selector)]

Selectors = tuple[Selector, ...]

StepsOrShare = Annotated[
    int | float,
    AfterValidator(_whole_or_share),
    Expect("a whole number of steps (0 or more), or a share of all steps between 0 and 1"),
]


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError
    return value


EveryStepsOrShare = Annotated[
    int | float,
    AfterValidator(_whole_or_share),
    AfterValidator(_above_zero),
    Expect("a whole number of steps (1 or more), or a share of all steps above 0 and below 1"),
]

Probability = Annotated[float, Field(ge=0, lt=1)]
