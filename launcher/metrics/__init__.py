"""What predictions are worth against references: pure functions, numpy in, `Measured` out. They never print.

| metrics | from | range | better |
| --- | --- | --- | --- |
| accuracy; top5_, subset_, token_, pixel_, mean_accuracy | classes, tags, pixels | 0 to 1 | greater |
| precision, recall, f1 and their _micro, _macro, _weighted | classes, tags, spans | 0 to 1 | greater |
| exact_match, f1, HasAns_exact, HasAns_f1, NoAns_exact, NoAns_f1 | answers | 0 to 1 | greater |
| auroc | ranking by score | 0 to 1 | greater |
| mcc, pearson, spearman, r2 | correlation | at most 1 | greater |
| mean_iou, mean_dice and their _per_image; map, map_50, ..., mar_100 | pixels, boxes | 0 to 1 | greater |
| bleu, chrf | sacrebleu | 0 to 100 | greater |
| rouge1, rouge2, rougeL | rouge_score | 0 to 1 | greater |
| mse, mae, rmse, hamming_loss; loss, perplexity (the objectives') | errors | 0 and above | lower |

A metric that cannot be told (a correlation with a constant, an average precision without a reference) is left out of
`values`, and a line of `details["notes"]` says why: a value is always finite. A ratio of nothing to nothing, such as the
precision of a class that was never predicted, is 0, as in scikit-learn.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "mse", "mae", "rmse", "hamming_loss"}
)  # of all others, more is better


class Measured(NamedTuple):
    """`values`: metric name (without `eval/`) -> finite number. `details`: JSON for people, each key only where it applies.

    * `confusion_matrix`: {"labels": [str], "counts": [[int]]}, `counts[reference][predicted]`
    * `table`: {"columns": [str], "rows": [[str | number | None]]}, one row a class; None is a number that cannot be told
    * `curves`: [{"title", "x", "y", "lines": [{"name", "points": [[x, y]], "apart"}]}], at most 200 points a
      line; `apart`, where it is true: no line joins them
    * `errors`: [{"where", "input", "reference", "predicted", "confidence"}], worst first, at most 20: the tasks add them
    * `notes`: [str], what was left out and why, and how a library was set
    * `pictures`: [{"image", "where", "caption"}], at most 12: the tasks add them

    `image`, which an error may have too, is a function that draws a PIL picture. It is called when the evaluation is written
    down; in the file, the picture's own file stands in its place: as `file` of pictures, as `picture` of errors.
    """

    values: dict[str, float]
    details: dict[str, Any]


def finite(values: dict[str, float], details: dict[str, Any], notes: list[str]) -> Measured:
    """The measurement without what is not a finite number, and with a note for each of those."""
    kept = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    notes = notes + [f"{name} is left out: it is {values[name]}" for name in values if name not in kept]
    return Measured(kept, {**details, "notes": notes} if notes else details)


def nothing(reason: str) -> Measured:
    """The measurement of what cannot be measured: no values and the reason."""
    return Measured({}, {"notes": [f"nothing is measured: {reason}"]})


def loss_of(totals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The sum of the terms' means as `loss`; nothing where nothing was counted, since 0 would be the best of all losses."""
    counted = [total / count for total, count in totals.values() if count]
    return {"loss": sum(counted)} if counted else {}


def named(names: list[str], most: int = 5) -> str:
    """A few names for a note: `a, b, c, d, e and 7 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
