"""Segmentation by sets of pixels, against torchmetrics, and with pixels and classes that do not count."""

import json
import warnings

import numpy as np
import pytest

from launcher.errors import DataError
from launcher.metrics.segmentation import counts, from_counts

LABELS = ["background", "cell", "rim", "dust"]


def case(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tiny images: one pixel, classes in none of them, all pixels ignored, all right and all wrong among the cases."""
    chance = np.random.default_rng(seed)
    shape, classes = chance.integers(1, 5, 2), int(chance.integers(1, 5))
    images = []
    for _ in range(chance.integers(1, 4)):
        reference = chance.integers(0, classes, shape)
        predicted = [reference, chance.integers(0, 4, shape), (reference + 1) % 4][seed % 3]
        ignored = chance.random(shape) < chance.choice([0, 0.3, 1], p=[0.5, 0.4, 0.1])
        images.append((predicted, np.where(ignored, 255, reference)))
    return images


def slow(images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Pixels as sets of (image, row, column)."""
    given: list[set] = [set() for _ in LABELS]
    wanted: list[set] = [set() for _ in LABELS]
    for number, (predicted, reference) in enumerate(images):
        for place in np.ndindex(reference.shape):
            if reference[place] != 255:
                given[predicted[place]].add((number, *place))
                wanted[reference[place]].add((number, *place))
    pairs = [(g, w) for g, w in zip(given, wanted, strict=True) if g | w]
    if not pairs:
        return {}
    return {
        "mean_iou": np.mean([len(g & w) / len(g | w) for g, w in pairs]),
        "mean_dice": np.mean([2 * len(g & w) / (len(g) + len(w)) for g, w in pairs]),
        "mean_accuracy": np.mean([len(g & w) / len(w) for g, w in pairs if w]),
        "pixel_accuracy": sum(len(g & w) for g, w in pairs) / sum(len(w) for _, w in pairs),
    }


def test_a_thousand_cases_equal_sets_of_pixels() -> None:
    for seed in range(1000):
        images = case(seed)
        matrices = [counts(predicted, reference, 4) for predicted, reference in images]
        expected = slow(images)
        alone = [one for image in images if (one := slow([image]))]
        if alone:
            expected |= {
                f"{name}_per_image": np.mean([one[name] for one in alone]) for name in ("mean_iou", "mean_dice")
            }
        values = from_counts(np.sum(matrices, axis=0), LABELS, matrices).values
        assert values == {name: pytest.approx(value) for name, value in expected.items()}, seed


def test_torchmetrics_agrees() -> None:
    import torch
    from torchmetrics.functional import jaccard_index
    from torchmetrics.functional.segmentation import dice_score

    chance = np.random.default_rng(0)
    predicted, reference = chance.integers(0, 4, (3, 8, 8)), chance.integers(0, 4, (3, 8, 8))
    matrices = [counts(*pair, 4) for pair in zip(predicted, reference, strict=True)]
    values = from_counts(np.sum(matrices, axis=0), LABELS, matrices).values
    ours, wanted = torch.from_numpy(predicted), torch.from_numpy(reference)
    whole = jaccard_index(ours, wanted, task="multiclass", num_classes=4)
    per_image = dice_score(ours, wanted, 4, average="macro", input_format="index").mean()
    assert values["mean_iou"] == pytest.approx(whole.item(), abs=1e-6)
    assert values["mean_dice_per_image"] == pytest.approx(per_image.item(), abs=1e-6)


def test_by_hand() -> None:
    pixels = counts([[0, 0], [1, 1]], [[0, 1], [1, 255]], 3)
    assert pixels.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    found = from_counts(pixels, ["a", "b", "c"])
    assert found.values["mean_iou"] == 0.5 and found.values["pixel_accuracy"] == pytest.approx(2 / 3)
    assert found.details["table"]["columns"] == ["class", "iou", "dice", "accuracy", "pixels"]
    assert found.details["table"]["rows"][1] == ["b", 0.5, pytest.approx(2 / 3), 0.5, 2]
    assert found.details["table"]["rows"][2] == ["c", None, None, None, 0]
    assert found.details["notes"] == ["in no reference and no prediction, and not in the means: c"]
    json.dumps(found.details, allow_nan=False)


def test_bytes_as_masks_do_not_overflow() -> None:
    mask = np.full((20, 20), 199, np.uint8)
    assert counts(mask, mask, 200)[199, 199] == 400


def test_a_mask_with_a_number_that_is_no_class_is_located() -> None:
    with pytest.raises(DataError, match=r"masks/7.png: the mask holds 3, 254, and classes are 0 to 2.*255"):
        counts(np.zeros((2, 2)), [[254, 0], [3, 255]], 3, where="masks/7.png")


def test_only_ignored_pixels_give_a_reason_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = counts([[0]], [[255]], 2)
        found = from_counts(pixels, ["a", "b"], [pixels])
    assert found.values == {} and found.details["notes"] and capfd.readouterr() == ("", "")
