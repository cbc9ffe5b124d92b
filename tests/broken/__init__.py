"""Broken recipes. The same table is run through `recipe.load` and through the command line."""

from broken import beside, text, together, values
from broken.case import DATA_FILES, GOOD, Case

__all__ = ["BROKEN", "DATA_FILES", "GOOD", "Case"]

BROKEN = [*text.CASES, *values.CASES, *together.CASES, *beside.CASES]
