"""Rows drawn so that every label comes up as often as any other."""

from collections.abc import Sequence

import numpy as np

from launcher.data.order import Source


def balanced(sources: Sequence[Source], labels: Sequence[str]) -> tuple[Source, ...]:
    """A source for each label of each source, in that order; an epoch has as many rows as one of `sources`, to rounding.

    `labels`: of each prepared row. Rare labels come up several times an epoch; of frequent ones, each epoch has other rows.
    Within a label, rows of a source with twice the weight come up twice as often.
    """
    of_row = np.asarray(labels, dtype=object)
    weights = np.zeros(len(of_row))
    for source in sources:
        weights[source.rows] = source.weight
    names = sorted(set(labels))
    share = weights.sum() / len(names)
    found = []
    for source in sources:
        for name in names:
            own = of_row == name
            rows = source.rows[own[source.rows]]
            if len(rows):
                weight = source.weight * share / float(weights[own].sum())
                found.append(Source(rows, round(weight, 9)))  # not 1.0000000000000002 times
    return tuple(found)
