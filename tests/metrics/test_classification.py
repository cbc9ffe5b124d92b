"""Classification metrics by hand, against scikit-learn and torchmetrics on many small cases, and where they cannot be told."""

import json
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from launcher.metrics.classification import multi_label, single_label
from launcher.metrics.ranking import thinned

CASES = 1000


def single_case(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores with ties, classes that never occur, one row, one class, all wrong and all right among the cases."""
    chance = np.random.default_rng(seed)
    classes, rows = int(chance.integers(1, 9)), int(chance.integers(1, 13))
    weights = chance.integers(1, 4 if seed % 2 else 1000, (rows, classes))  # few numbers: ties
    references = chance.integers(0, chance.integers(1, classes + 1), rows)
    if seed % 10 == 0:
        references = weights.argmax(1)
    if seed % 10 == 5:
        references = weights.argmin(1)
    return weights / weights.sum(1, keepdims=True), references, [f"class {i}" for i in range(classes)]


def multi_case(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    chance = np.random.default_rng(seed)
    classes, rows = int(chance.integers(1, 6)), int(chance.integers(1, 9))
    scores = chance.integers(0, 5, (rows, classes)) / 4  # 0.5 is the threshold, exactly
    references = (chance.random((rows, classes)) < chance.choice([0, 0.3, 0.5, 1])).astype(int)
    return scores, references, [f"class {i}" for i in range(classes)]


def slow_auroc(scores: np.ndarray, occurs: np.ndarray) -> float | None:
    """Every pair of a row with the class and one without: won, drawn or lost."""
    pairs = [(a > b) + (a == b) / 2 for a in scores[occurs] for b in scores[~occurs]]
    return sum(pairs) / len(pairs) if pairs else None


def macro_auroc(scores: np.ndarray, occurs: np.ndarray, first: int) -> float | None:
    areas = [slow_auroc(scores[:, c], occurs[:, c]) for c in range(first, scores.shape[1])]
    known = [area for area in areas if area is not None]
    return sum(known) / len(known) if known else None


def sklearn_averages(references: np.ndarray, predicted: np.ndarray, average: str) -> tuple[float, float, float]:
    found = sk.precision_recall_fscore_support(references, predicted, average=average, zero_division=0)
    return found[0], found[1], found[2]


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-12)


def scikit_learn_of_columns(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(pairs, 3) precision, recall and F1 of each (references, predicted), in one call: rows with 0 and 0 change neither."""
    longest = max(len(wanted) for wanted, _ in pairs)
    sides = (np.stack([np.pad(pair[side], (0, longest - len(pair[side]))) for pair in pairs], 1) for side in (0, 1))
    return np.stack(sk.precision_recall_fscore_support(*sides, average=None, zero_division=0)[:3], 1)


def test_one_label_equals_scikit_learn() -> None:
    cases = [single_case(seed) for seed in range(CASES)]
    columns = [(y == c, scores.argmax(1) == c) for scores, y, labels in cases for c in range(len(labels))]
    rates = np.split(scikit_learn_of_columns(columns), np.cumsum([len(labels) for _, _, labels in cases])[:-1])
    for seed, (scores, references, labels) in enumerate(cases):
        predicted, classes = scores.argmax(1), np.arange(len(labels))
        present = np.isin(classes, [*references, *predicted])
        macro = rates[seed][present].mean(0)
        expected = dict(zip(("precision_macro", "recall_macro", "f1_macro"), macro, strict=True))
        expected["accuracy"] = expected["f1_micro"] = (references == predicted).mean()
        expected["f1_weighted"] = rates[seed][references, 2].mean()
        auroc = macro_auroc(scores, references[:, None] == classes, first=len(labels) == 2)
        expected |= {"auroc": auroc} if auroc is not None else {}
        if len(labels) > 5:
            best = [sorted(classes, key=lambda c, row=row: -row[c])[:5] for row in scores]
            expected["top5_accuracy"] = np.mean([y in five for y, five in zip(references, best, strict=True)])
        values = single_label(scores, references, labels).values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of one class alone
            expected["mcc"] = sk.matthews_corrcoef(references, predicted)
        assert values == {name: close(value) for name, value in expected.items()}, seed


def test_averages_of_one_label_are_those_that_scikit_learn_takes() -> None:
    for seed in range(40):
        scores, references, labels = single_case(seed)
        values, predicted = single_label(scores, references, labels).values, scores.argmax(1)
        ours = tuple(values[f"{name}_macro"] for name in ("precision", "recall", "f1"))
        assert ours == close(sklearn_averages(references, predicted, "macro")), seed
        assert values["f1_weighted"] == close(sklearn_averages(references, predicted, "weighted")[2]), seed


def test_several_labels_equal_scikit_learn() -> None:
    cases = [multi_case(seed) for seed in range(CASES)]
    pairs = [(references, (scores >= 0.5).astype(int)) for scores, references, _ in cases]
    micro = scikit_learn_of_columns([(wanted.ravel(), given.ravel()) for wanted, given in pairs])
    classes = scikit_learn_of_columns(
        [column for wanted, given in pairs for column in zip(wanted.T, given.T, strict=True)]
    )
    ends = np.cumsum([len(labels) for _, _, labels in cases])
    macro = [columns.mean(0) for columns in np.split(classes, ends[:-1])]
    for number, (scores, references, labels) in enumerate(cases):
        predicted = pairs[number][1]
        expected = {"subset_accuracy": (references == predicted).all(1).mean()}
        expected["hamming_loss"] = (references != predicted).mean()
        for average, rates in (("micro", micro[number]), ("macro", macro[number])):
            expected |= {
                f"{name}_{average}": rate for name, rate in zip(("precision", "recall", "f1"), rates, strict=True)
            }
        auroc = macro_auroc(scores, references.astype(bool), first=0)
        expected |= {"auroc": auroc} if auroc is not None else {}
        values = multi_label(scores, references, labels).values
        assert values == {name: close(value) for name, value in expected.items()}, number


def test_averages_of_several_labels_are_those_that_scikit_learn_takes() -> None:
    for seed in range(20):
        scores, references, labels = multi_case(seed)
        if len(labels) > 1:  # scikit-learn takes one column for binary rows
            values, predicted = multi_label(scores, references, labels).values, (scores >= 0.5).astype(int)
            for average in ("micro", "macro"):
                ours = tuple(values[f"{name}_{average}"] for name in ("precision", "recall", "f1"))
                assert ours == close(sklearn_averages(references, predicted, average)), seed


def test_torchmetrics_agrees_where_every_class_occurs() -> None:
    import torch
    from torchmetrics.functional import classification as tm

    scores = np.random.default_rng(0).dirichlet(np.ones(7), 60)
    references = np.arange(60) % 7
    values = single_label(scores, references, list("abcdefg")).values
    given, wanted = torch.from_numpy(scores), torch.from_numpy(references)
    for name, theirs in {
        "auroc": tm.multiclass_auroc(given, wanted, 7),
        "mcc": tm.multiclass_matthews_corrcoef(given, wanted, 7),
        "f1_macro": tm.multiclass_f1_score(given, wanted, 7, average="macro"),
        "precision_macro": tm.multiclass_precision(given, wanted, 7, average="macro"),
        "top5_accuracy": tm.multiclass_accuracy(given, wanted, 7, top_k=5, average="micro"),
    }.items():
        assert values[name] == pytest.approx(theirs.item(), abs=1e-6), name  # theirs are in single precision


def test_auroc_equals_scikit_learn_on_ties() -> None:
    chance = np.random.default_rng(1)
    for _ in range(50):
        scores, references = chance.integers(0, 4, 30) / 4, np.append(chance.integers(0, 2, 28), [0, 1])
        both = np.stack([1 - scores, scores], 1)
        assert single_label(both, references, ["no", "yes"]).values["auroc"] == close(
            sk.roc_auc_score(references, scores)
        )


def test_by_hand() -> None:
    scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    found = single_label(scores, [0, 1, 1, 1], ["neg", "pos"])
    assert found.values["accuracy"] == 0.75 and found.values["auroc"] == 1.0
    assert found.values["mcc"] == pytest.approx((1 * 2 - 0 * 1) / math.sqrt(2 * 3 * 1 * 2))
    assert found.details["confusion_matrix"] == {"labels": ["neg", "pos"], "counts": [[1, 0], [1, 2]]}
    assert found.details["table"]["columns"] == ["class", "precision", "recall", "f1", "support"]
    assert found.details["table"]["rows"][0] == ["neg", 0.5, 1.0, close(2 / 3), 1]
    assert "notes" not in found.details


def test_the_curve_is_that_of_scikit_learn_from_0_1_to_full_recall() -> None:
    chance = np.random.default_rng(2)
    scores, references = chance.integers(0, 9, 40) / 8, np.append(chance.integers(0, 2, 38), [0, 1])
    curves = single_label(np.stack([1 - scores, scores], 1), references, ["no", "yes"]).details["curves"]
    precision, recall, _ = sk.precision_recall_curve(references, scores)
    assert curves[0]["lines"][1]["name"] == "yes"
    assert np.allclose(curves[0]["lines"][1]["points"], np.stack([recall, precision], 1)[::-1])


def test_what_is_shown_of_many_rows_and_classes_is_bounded_and_json() -> None:
    chance = np.random.default_rng(3)
    scores, references = chance.dirichlet(np.ones(150), 900), chance.integers(0, 150, 900)
    details = single_label(scores, references, [str(i) for i in range(150)]).details
    lines = details["curves"][0]["lines"]
    assert len(lines) == 10 and all(len(line["points"]) == 200 for line in lines)
    assert all(line["points"][0] == [0, 1] and line["points"][-1][0] == 1 for line in lines)
    matrix = details["confusion_matrix"]
    assert len(matrix["counts"]) == len(matrix["counts"][0]) == len(matrix["labels"]) == 100
    support = np.bincount(references, minlength=150)
    assert min(support[int(label)] for label in matrix["labels"]) >= np.sort(support)[50]
    assert any("100 most frequent of 150" in note for note in details["notes"])
    json.dumps(details, allow_nan=False)


def test_a_thinned_line_keeps_its_order_and_its_ends() -> None:
    line = [[float(i), float(-i)] for i in range(1001)]
    thin = thinned(line)
    assert len(thin) == 200 and thin == sorted(thin) and [thin[0], thin[-1]] == [line[0], line[-1]]
    assert max(b[0] - a[0] for a, b in zip(thin, thin[1:], strict=False)) <= 6
    assert thinned(line[:200]) == line[:200]


def test_a_class_that_no_row_has_is_named() -> None:
    found = single_label([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], [0, 1], ["a", "b", "rare"])
    assert found.values["f1_macro"] == 1.0 and found.values["auroc"] == 1.0
    assert all("rare" in note for note in found.details["notes"]) and len(found.details["notes"]) == 2


@pytest.mark.parametrize("measure", [single_label, multi_label])
def test_scores_that_are_not_finite_and_no_rows_give_a_reason_and_no_value(measure) -> None:
    references = [0, 1] if measure is single_label else [[0, 1], [1, 0]]
    broken = measure([[math.nan, 0.5], [0.5, 0.5]], references, ["a", "b"])
    assert broken.values == {} and "1 of 2 rows are not finite" in broken.details["notes"][0]
    empty = measure(np.zeros((0, 2)), np.zeros(0 if measure is single_label else (0, 2)), ["a", "b"])
    assert empty.values == {} and "no rows" in empty.details["notes"][0]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(50):
            single_label(*single_case(seed))
            multi_label(*multi_case(seed))
    assert capfd.readouterr() == ("", "")
