"""Detection against pycocotools on a thousand tiny data sets, and by hand."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from launcher.metrics.detection import detections

LABELS = ["ant", "bee", "cat"]
ORDER = {"map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "mar_100": 8}


def boxes(chance: np.random.Generator, number: int) -> np.ndarray:
    """Whole pixels, so that boxes often touch or coincide; sides up to 150, so that all three sizes occur."""
    corners = chance.integers(0, 8, (number, 2)) * 10
    return np.hstack([corners, corners + chance.choice([5, 10, 30, 60, 150], (number, 2))]).astype(float)


def case(seed: int) -> tuple[list[dict], list[dict]]:
    """Images without a box, classes without a reference, no predictions at all, ties and doubles among the cases."""
    chance = np.random.default_rng(seed)
    references, predicted = [], []
    classes = int(chance.integers(1, 4))
    for _ in range(chance.integers(1, 4)):
        number = int(chance.integers(0, 4))
        truth = {"boxes": boxes(chance, number), "labels": chance.integers(0, classes, number)}
        near = truth["boxes"] + chance.choice([0, 0, 1, 3], truth["boxes"].shape)
        extra = int(chance.integers(0, 3))
        found = np.vstack([near[chance.random(number) < 0.8], boxes(chance, extra)])
        found = found[: 0 if seed % 10 == 0 else None]
        labels = np.resize(truth["labels"], len(found)) if number else chance.integers(0, 3, len(found))
        labels = np.where(chance.random(len(found)) < 0.2, chance.integers(0, 3, len(found)), labels)
        predicted.append({"boxes": found, "scores": chance.integers(1, 6, len(found)) / 5, "labels": labels})
        references.append(truth)
    return predicted, references


def coco_rows(entries: list[dict]) -> list[dict]:
    rows = []
    for image, entry in enumerate(entries):
        for i, (x1, y1, x2, y2) in enumerate(entry["boxes"].tolist()):
            row = {"image_id": image, "category_id": int(entry["labels"][i]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            row |= {"id": len(rows) + 1, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            rows.append(row | ({"score": float(entry["scores"][i])} if "scores" in entry else {}))
    return rows


def pycocotools(predicted: list[dict], references: list[dict], limits: list[int]) -> COCOeval:
    truth, found = COCO(), COCO()
    images = [{"id": i} for i in range(len(references))]
    categories = [{"id": i, "name": n} for i, n in enumerate(LABELS)]
    for side, entries in ((truth, references), (found, predicted)):
        side.dataset = {"images": images, "categories": categories, "annotations": coco_rows(entries)}
        side.createIndex()
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.params.maxDets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    if len(limits) == 3:
        evaluation.summarize()
    return evaluation


def known_mean(numbers: np.ndarray) -> float:
    return numbers[numbers > -1].mean() if (numbers > -1).any() else -1


def test_a_thousand_cases_equal_pycocotools() -> None:
    for seed in range(1000):
        predicted, references = case(seed)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = pycocotools(predicted, references, [100]).eval
        precision, recall = theirs["precision"][..., 0], theirs["recall"][..., 0]  # by IoU, recall, class, area
        expected = {"map": precision[..., 0], "map_50": precision[0, ..., 0], "map_75": precision[5, ..., 0]}
        expected |= {f"map_{area}": precision[..., i] for i, area in ((1, "small"), (2, "medium"), (3, "large"))}
        expected["mar_100"] = recall[..., 0]
        known = {name: mean for name, numbers in expected.items() if (mean := known_mean(numbers)) > -1}
        found = detections(predicted, references, LABELS)
        assert found.values == {name: pytest.approx(mean, abs=1e-9) for name, mean in known.items()}, seed
        for i, (_, ap, ap_50, *_) in enumerate(found.details.get("table", {"rows": []})["rows"]):
            of_class = precision[:, :, i, 0]
            told = (of_class > -1).all()
            assert (ap, ap_50) == (pytest.approx((of_class.mean(), of_class[0].mean())) if told else (None, None)), seed


def test_the_means_are_those_of_its_summary() -> None:
    for seed in range(40):
        predicted, references = case(seed)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = pycocotools(predicted, references, [1, 10, 100]).stats
        expected = {name: theirs[i] for name, i in ORDER.items() if theirs[i] > -1}
        assert detections(predicted, references, LABELS).values == pytest.approx(expected, abs=1e-9), seed


def image(rows: list[list[float]], labels: list[int], scores: list[float] | None = None) -> dict:
    return {"boxes": np.array(rows), "labels": labels, **({"scores": scores} if scores is not None else {})}


def test_by_hand() -> None:
    references = [image([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0]), image([], [])]
    predicted = [image([[0, 0, 10, 6], [50, 50, 60, 60]], [0, 0], [0.9, 0.5]), image([[0, 0, 5, 5]], [1], [0.9])]
    found = detections(predicted, references, LABELS)
    assert found.values["map_50"] == pytest.approx(51 / 101), (
        "right with half of the recall: recalls 0.00 to 0.50 of 101"
    )
    assert found.values["map"] == pytest.approx(51 / 101 * 3 / 10), "an IoU of 0.6 passes 0.50, 0.55 and 0.60"
    assert found.values["map_75"] == 0.0 and found.values["mar_100"] == pytest.approx(0.5 * 3 / 10)
    assert found.details["table"]["columns"] == ["class", "ap", "ap_50", "references", "predictions"]
    assert found.details["table"]["rows"][1] == ["bee", None, None, 0, 1]
    assert set(found.values) == {"map", "map_50", "map_75", "map_small", "mar_100"}
    assert any("map_large is left out" in note for note in found.details["notes"])
    assert any("bee, cat" in note for note in found.details["notes"])
    line = found.details["curves"][0]["lines"]
    assert [one["name"] for one in line] == ["ant"] and line[0]["points"][50:52] == [[0.5, 1.0], [0.51, 0.0]]
    json.dumps(found.details, allow_nan=False)


def test_no_predictions_are_worth_nothing_and_no_references_cannot_be_measured(
    capfd: pytest.CaptureFixture[str],
) -> None:
    nothing, one = image([], [], []), image([[0, 0, 100, 100]], [2])
    assert set(detections([nothing], [one], LABELS).values.values()) == {0.0}
    without = detections([image([[0, 0, 9, 9]], [0], [0.5])], [image([], [])], LABELS)
    assert without.values == {} and "no reference boxes" in without.details["notes"][0]
    assert detections([], [], LABELS).values == {}
    assert capfd.readouterr() == ("", "")


def test_a_box_turned_inside_out_matches_nothing_and_one_that_is_not_finite_stops_the_measurement() -> None:
    truth = image([[0, 0, 10, 10]], [0])
    assert detections([image([[10, 10, 0, 0]], [0], [0.9])], [truth], LABELS).values["map_50"] == 0.0
    broken = detections([image([[0, 0, math.nan, 1]], [0], [0.9])], [truth], LABELS)
    assert broken.values == {} and "1 of 1 images are not finite" in broken.details["notes"][0]
