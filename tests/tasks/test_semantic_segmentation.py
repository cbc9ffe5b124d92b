"""A class for every pixel: the loss against transformers' own and a loop, masks in their own size, bad masks, predictions."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_pictures
import tiny_tasks
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from launcher.__main__ import main
from launcher.data import masks
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.schema import Data
from launcher.tasks.semantic_segmentation import Config, metrics, objective, rows

CLASSES = 3


class Fixed(torch.nn.Module):
    """Logits that are given: a model without a model."""

    def forward(self, logits: torch.Tensor) -> Any:
        return type("Output", (), {"logits": logits})


def batch(pictures: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES + 1, (pictures, 12, 16), generator=random)
    labels = torch.where(labels == CLASSES, masks.IGNORED, labels).to(torch.uint8)
    labels[-1] = masks.IGNORED  # a picture of which nothing counts
    return {"logits": torch.randn(pictures, CLASSES, 3, 4, generator=random).double(), "labels": labels}


def in_parts(built: Any, whole: dict[str, torch.Tensor]) -> float:
    """The sum of the terms of a global batch of 5, from micro-batches of 2, 1 and 2."""
    parts = [{name: tensor[a:b] for name, tensor in whole.items()} for a, b in ((0, 2), (2, 3), (3, 5))]
    terms = [built(**part).terms for part in parts]
    counts = [built.counts(part) for part in parts]
    return sum(
        sum(float(of_part[name][0]) * of_part[name][2] for of_part in terms) / sum(count[name] for count in counts)
        for name in terms[0]
    )


def test_the_loss_is_that_of_every_pixel_and_every_picture_by_itself() -> None:
    whole, weight = batch(5), 0.7
    built = objective.build(Fixed(), Config(dice_weight=weight), None)
    enlarged = functional.interpolate(whole["logits"], size=(12, 16), mode="bilinear", align_corners=False)
    pixels, dices = [], []
    for logits, labels in zip(enlarged, whole["labels"].long(), strict=True):
        known = labels != masks.IGNORED
        pixels += [-float(logits[:, y, x].log_softmax(0)[labels[y, x]]) for y, x in known.nonzero().tolist()]
        if known.any():
            shares, wanted = logits.softmax(0)[:, known], labels[known]
            each = [
                (2 * shares[c, wanted == c].sum() + 1) / (shares[c].sum() + (wanted == c).sum() + 1)
                for c in range(CLASSES)
            ]
            dices.append(1 - float(torch.stack(each).mean()))
    assert len(dices) == 4
    assert in_parts(built, whole) == pytest.approx(np.mean(pixels) + weight * np.mean(dices), rel=1e-9)


def test_without_dice_it_is_transformers_own() -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(num_labels=CLASSES, **tiny_pictures.SEGFORMER)
    model = SegformerForSemanticSegmentation(config).eval()
    labels = batch(3)["labels"].repeat_interleave(4, 1).repeat_interleave(4, 2)
    values = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    built = objective.build(model, Config(), None).eval()
    with torch.no_grad():
        wanted = model(pixel_values=values, labels=labels.long()).loss
        total, count, _ = built(labels=labels, pixel_values=values).terms["pixels"]
    assert float(total) / count == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 16, 37])
def test_the_likeliest_class_is_the_same_whether_the_classes_are_enlarged_together_or_not(classes: int) -> None:
    logits = torch.randn(classes, 5, 4, generator=torch.Generator().manual_seed(0))
    enlarged = functional.interpolate(logits[None], size=(23, 31), mode="bilinear", align_corners=False)[0]
    assert objective.most_likely(logits, (23, 31)).equal(enlarged.argmax(0).to(torch.uint8))


# --- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has seen the rectangles of `tiny_pictures` often enough."""
    folder = tmp_path_factory.mktemp("rectangles")
    recipe = tiny_tasks.make("semantic_segmentation", folder)
    words = ["training.max_steps=40", "optimizer.learning_rate=1e-2", "logging.logging_steps=10"]
    words += ['data.labels={"0": ground, "255": box}', "evaluation.metrics=[loss, mean_iou, mean_iou_per_image]"]
    assert tiny.train(recipe, f"output_dir={folder / 'run'}", *words) == 0
    return folder / "run"


def evaluated(run: Path) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Reference, prediction by plain transformers in the picture's own size, and file, of the evaluation data."""
    export = run / "export"
    model = AutoModelForSemanticSegmentation.from_pretrained(export)
    processor = AutoImageProcessor.from_pretrained(export)
    for file in sorted((run.parent / "eval" / "images").iterdir()):
        picture = Image.open(file).convert("RGB")
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"))
        (found,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[picture.size[::-1]])
        reference = np.asarray(Image.open(file.parent.parent / "masks" / file.name)) // 255
        yield reference, found.numpy(), str(file)


def test_rectangles_are_learned(learned: Path) -> None:
    values = tiny.losses(learned, "eval/mean_iou")
    assert values[0] < 0.6 and values[40] > 0.8, values


def test_metrics_are_of_each_picture_in_its_own_size_and_as_plain_transformers_predicts(learned: Path) -> None:
    counts, of_each = np.zeros((2, 2), int), []
    for reference, found, _ in evaluated(learned):
        own = np.array([[((reference == r) & (found == p)).sum() for p in range(2)] for r in range(2)])
        of_each.append(np.mean([own[c, c] / (own[c].sum() + own[:, c].sum() - own[c, c]) for c in range(2)]))
        counts += own
    details = json.loads((learned / "evaluation.json").read_text())
    assert details["confusion_matrix"] == {"labels": ["ground", "box"], "counts": counts.tolist()}
    assert tiny.losses(learned, "eval/mean_iou_per_image")[40] == pytest.approx(np.mean(of_each))


def test_pictures_are_shown_from_the_worst_to_the_best(learned: Path) -> None:
    details = json.loads((learned / "evaluation.json").read_text())
    assert [picture["file"] for picture in details["pictures"]] == [f"pictures/000{n}.png" for n in range(1, 6)]
    values = [float(re.search(r"mean IoU (\S+) ", picture["caption"])[1]) for picture in details["pictures"]]
    assert values == sorted(values)
    assert all(Image.open(learned / picture["file"]).width > 3 * 250 for picture in details["pictures"])
    spread = [np.diag([n, 5]) + np.array([[0, 9], [9, 0]]) for n in range(40)]
    assert metrics._spread(spread) == [0, 4, 7, 11, 14, 18, 21, 25, 28, 32, 35, 39]


def test_predictions_are_those_of_plain_transformers(learned: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "answers.jsonl", tmp_path / "drawn"
    inputs = learned.parent / "eval" / "images"
    words = [str(inputs), "--output", str(output), "--pictures", str(folder), "--batch-size", "2"]
    assert main(["predict", str(learned), *words]) == 0
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    for answer, (_, found, file) in zip(answers, evaluated(learned), strict=True):
        assert answer["input"] == file and answer["size"] == list(found.shape)
        assert np.array_equal(np.asarray(Image.open(answer["mask"])), found)
        assert answer["pixels"] == {n: int((found == c).sum()) for c, n in enumerate(("ground", "box")) if c in found}
        assert Path(answer["picture"]).name == Path(file).name and Image.open(answer["picture"]).width >= 250


# --- data --------------------------------------------------------------------------------------------------------------


def test_a_batch_has_picture_and_mask_resized_alike(tmp_path: Path) -> None:
    from transformers import SegformerImageProcessorPil

    tiny_pictures.with_masks(tmp_path, 3)
    processor = SegformerImageProcessorPil(size={"height": 64, "width": 96}, do_reduce_labels=True)
    context = Context(processor, Data(), labels=Labels.listed({"0": "ground", "255": "box"}))
    tools = Tools(processor, Data(), "error", {}, context.labels)
    example = {"image": str(tmp_path / "images" / "01.png"), "mask": str(tmp_path / "masks" / "01.png")}
    (row,) = rows.rows("here", example, tools)
    found = rows.collate_eval([[0], [0]], lambda *_: row, context)
    reference = np.asarray(Image.open(example["mask"])) // 255
    assert row["labels"] == ["ground", "box"] and found["sizes"].tolist() == [list(reference.shape)] * 2
    assert np.array_equal(found["references"][1].numpy(), reference)
    bright = found["pixel_values"].mean(1) > 0
    assert (bright == (found["labels"] == 1)).float().mean() > 0.97, "where the picture is bright is the class"
    empty = rows.collate([], lambda *_: row, context)
    assert (empty["labels"] == masks.IGNORED).all() and empty["labels"].shape == (1, 64, 96)


def spoil(folder: Path, content: np.ndarray) -> None:
    (folder / "train" / "masks" / "03.png").write_bytes(tiny_pictures.png(content))


SIZE = np.asarray(Image.new("L", (43, 33)))  # of picture 03


@pytest.mark.parametrize(
    ("mask", "labels", "says"),
    [
        (SIZE[:-1], "null", "train/masks/03.png: the mask is 43 x 32 pixels, and its picture 43 x 33"),
        (np.stack([SIZE] * 3, -1), "null", "train/masks/03.png: a mask has one number a pixel, and this one is RGB"),
        (SIZE + 7, '{"0": ground, "255": box}', "train/masks/03.png: the label '7' is none of data.labels"),
    ],
)
def test_bad_masks_are_located_or_counted_and_skipped(
    mask: np.ndarray, labels: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_tasks.make("semantic_segmentation", tmp_path)
    spoil(tmp_path, mask)
    words = [f"output_dir={tmp_path / 'run'}", "training.max_steps=1", f"data.labels={labels}"]
    assert tiny.train(recipe, *words) == 89
    assert says in capsys.readouterr().err
    assert tiny.train(recipe, *words, "data.on_error=skip") == 0
    assert "1 rows skipped because they cannot be used" in capsys.readouterr().out


def test_what_is_ignored_counts_nowhere(tmp_path: Path) -> None:
    """Numbers 0, 1 and 255: of those 255 is ignored, and the pixels of the evaluation are fewer for it."""
    recipe = tiny_tasks.make("semantic_segmentation", tmp_path)
    known = 0
    for file in sorted((tmp_path).glob("*/masks/*.png")):
        mask = np.asarray(Image.open(file)) // 255
        mask = np.where(np.arange(mask.shape[1]) < 10, 255, mask).astype(np.uint8)
        file.write_bytes(tiny_pictures.png(mask))
        known += (mask != 255).sum() if "eval" in file.parts else 0
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", "training.max_steps=1") == 0
    details = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert details["confusion_matrix"]["labels"] == ["0", "1"]
    assert sum(map(sum, details["confusion_matrix"]["counts"])) == known


def test_masks_of_none_of_the_labels_are_nothing_to_learn_from(tmp_path: Path, capsys) -> None:
    recipe = tiny_tasks.make("semantic_segmentation", tmp_path)
    for file in (tmp_path / "train" / "masks").glob("*.png"):
        file.write_bytes(tiny_pictures.png(np.full_like(np.asarray(Image.open(file)), 7)))
    words = [f"output_dir={tmp_path / 'run'}", "data.ignore_index=7", 'data.labels={"0": ground, "255": thing}']
    assert tiny.train(recipe, *words) == 89
    assert "no row of data.train has any of the labels" in capsys.readouterr().err
