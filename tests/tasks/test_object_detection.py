"""Boxes in pictures: losses against transformers' own, boxes from the file to the model and back, what is wrong with them."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_pictures
import tiny_tasks
import torch
from detectors import CONFIGS, QUERIES, as_transformers, batch, detector
from PIL import Image
from transformers import AutoImageProcessor, DetrImageProcessorPil, YolosImageProcessorPil, pipeline

from launcher import log, new_head
from launcher.__main__ import main
from launcher.data import pictures
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.errors import DataError, EnvironmentProblem, NonFiniteError, RecipeError
from launcher.lora import LoraOptions, apply_lora
from launcher.metrics import detection
from launcher.schema import Data
from launcher.tasks.object_detection import Config, objective, rows

NAMES = ("a", "b", "c")
CONTEXT = Context(None, Data(), labels=Labels.listed(NAMES))


@pytest.fixture
def in_fp64() -> Iterator[None]:
    """transformers' loss makes tensors of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(model: Any) -> torch.Tensor:
    """All in one; zero where no backward pass came."""
    each = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in each])


def learned(model: Any, parts: list[dict[str, torch.Tensor]], options: Config | None = None) -> float:
    """The loss of a global batch in micro-batches; its gradients are left in the model."""
    learner = objective.build(model, options or Config(), CONTEXT).train()
    model.zero_grad()
    counted = [learner.counts(part) for part in parts]
    counts = {name: sum(each[name] for each in counted) for name in counted[0]}
    total = 0.0
    for part in parts:
        torch.manual_seed(5)  # RT-DETR's noise
        terms = learner(**part).terms
        loss = sum(weight * value / (counts[name] or 1) for name, (value, _, weight) in terms.items())
        loss.backward()
        total += loss.item()
    return total


@pytest.mark.parametrize("numbers", [(3, 0, 5), (0, 0), (12, 1)], ids=["some", "none", "more than queries"])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_loss_of_a_whole_batch_is_transformers_own(in_fp64: None, family: str, numbers: tuple[int, ...]) -> None:
    model, whole = detector(family), batch(*numbers)
    torch.manual_seed(5)
    reference = model(**as_transformers(whole)).loss
    reference.backward()
    wanted = gradients(model).clone()
    assert learned(model, [whole]) == pytest.approx(reference.item(), rel=1e-8)
    assert (gradients(model) - wanted).abs().max() < 1e-8 * wanted.abs().max()


@pytest.mark.parametrize("family", CONFIGS)
def test_micro_batches_and_a_rank_without_work_are_the_whole(in_fp64: None, family: str) -> None:
    model = detector(family, num_denoising=0) if family == "rt_detr" else detector(family)
    whole = batch(3, 0, 5, 2)
    loss = learned(model, [whole])
    wanted = gradients(model).clone()
    # On a CPU, PyTorch 2.13 has wrong gradients of BatchNorm2d for one row whose gradient comes transposed, as RT-DETR's does.
    places = ((0, 2), (2, 4)) if family == "rt_detr" else ((0, 1), (1, 2), (2, 4))
    parts = [{name: tensor[a:b] for name, tensor in whole.items()} for a, b in places]
    assert learned(model, [*parts, batch(-1)]) == pytest.approx(loss, rel=1e-8)
    assert (gradients(model) - wanted).abs().max() < 1e-8 * wanted.abs().max()


def test_noisy_queries_are_drawn_from_torch_s_generator_and_counted() -> None:
    """5 boxes at most, so 12 // 5 = 2 groups of the 8 boxes."""
    model, whole = detector("rt_detr"), batch(3, 0, 5)
    learner = objective.build(model, Config(), CONTEXT).train()
    counts = learner.counts(whole)
    assert counts["denoising boxes"] == 2 * counts["boxes"] == 16
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(learner(**whole).terms["denoising boxes"][0].detach()))
    assert losses[0] == losses[1] != losses[2]
    assert learner.eval().counts(whole)["denoising boxes"] == 0


def test_coefficients_of_the_recipe_take_the_place_of_the_model_s() -> None:
    model, whole = detector("detr"), batch(3, 0, 5)
    loss = learned(model, [whole], Config(eos_coefficient=0.5, bbox_loss_coefficient=7.0, giou_loss_coefficient=0.0))
    model = detector("detr", eos_coefficient=0.5, bbox_loss_coefficient=7, giou_loss_coefficient=0)
    assert loss == pytest.approx(model(**as_transformers(whole)).loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "options", "said"),
    [
        ("yolos", {"model_type": "d_fine"}, {}, "use a model of type yolos, detr"),
        ("yolos", {"auxiliary_loss": True}, {}, "no auxiliary_loss for YOLOS"),
        ("deformable_detr", {}, {"eos_coefficient": 0.1}, "no class for no object"),
    ],
)
def test_what_cannot_be_learned_is_refused(family: str, changes: Any, options: Any, said: str) -> None:
    model = detector(family)
    for name, value in changes.items():
        object.__setattr__(model.config, name, value)
    with pytest.raises(RecipeError, match=said):
        objective.plan_loss(model, Config(**options), "full")


def test_boxes_that_are_not_finite_end_the_run() -> None:
    model, whole = detector("yolos"), batch(2)
    with torch.no_grad():
        model.bbox_predictor.layers[-1].bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="boxes are not finite"):
        learned(model, [whole])


def test_boxes_that_the_model_has_no_query_for_are_said(monkeypatch: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "say", said.append)
    learned(detector("yolos"), [batch(QUERIES + 1), batch(QUERIES + 2)])
    assert len(said) == 1 and f"a picture has {QUERIES + 1} boxes, and the model can find {QUERIES}" in said[0]


# --- from the file to the model, and back ------------------------------------------------------------------------------


def row(
    width: int = 40, height: int = 30, boxes: Any = (), labels: Any = (), known: Any = None, labelled: bool = True
) -> dict[str, Any]:
    picture = tiny_pictures.png(tiny_pictures.noise(width, height, width).astype(np.uint8))
    made = Tools(None, Data(), "truncate", {}, known, labelled)
    (found,) = rows.rows("boxes.json image 7", {"image": picture, "boxes": boxes, "labels": labels}, made)
    return found | {"counts": made.counts}


def collated(found: list[dict[str, Any]], processor: Any) -> dict[str, torch.Tensor]:
    context = Context(processor, Data(), labels=Labels.listed(NAMES))
    return rows.collate([[place] for place in range(len(found))], lambda index: found[index], context)


@pytest.mark.parametrize("size", [{"height": 32, "width": 48}, {"shortest_edge": 32, "longest_edge": 60}])
def test_a_picture_and_its_boxes_are_as_the_processor_makes_them(size: dict[str, int]) -> None:
    """Of several pictures, the pixels and the mask too; boxes stay shares of the picture without its padding, which is what
    transformers' post-processing takes them for."""
    processor = DetrImageProcessorPil(size=size)
    found = [
        row(40, 30, [[0, 0, 40, 30], [3.5, 2, 10, 20.25]], ["c", "a"]),
        row(25, 37, [[24, 36, 1, 1]], ["b"]),
        row(50, 20),
    ]
    batch = collated(found, processor)
    images = [pictures.read(each) for each in found]
    own = processor(images=images, return_tensors="pt")
    assert batch["pixel_values"].equal(own["pixel_values"]) and batch["pixel_mask"].equal(own["pixel_mask"])
    for place, (each, image) in enumerate(zip(found, images, strict=True)):
        boxes = np.reshape(each["boxes"], (-1, 4)).tolist()
        annotations = [
            {"bbox": box, "category_id": NAMES.index(label), "area": 1.0}
            for box, label in zip(boxes, each["labels"], strict=True)
        ]
        (alone,) = processor(images=image, annotations={"image_id": 1, "annotations": annotations})["labels"]
        number = len(each["labels"])
        np.testing.assert_allclose(batch["boxes"][place, :number], alone["boxes"], atol=1e-6)
        assert batch["class_labels"][place].tolist() == [*alone["class_labels"], *[-100] * (2 - number)]
        assert batch["sizes"][place].tolist() == alone["orig_size"].tolist()


def test_what_is_found_comes_back_in_pixels_of_the_file() -> None:
    """Though pictures of different sizes were padded to one."""
    found = [row(40, 30, [[3.5, 2, 10, 20.25], [1, 1, 30, 20]], ["c", "a"]), row(25, 97, [[20, 90, 4, 5]], ["b"])]
    processor = DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 60})
    batch = collated(found, processor)
    learner = objective.build(detector("detr"), Config(), Context(processor, Data()))
    said = torch.full((2, 2, 4), -9.0)
    for place, labels in enumerate(batch["class_labels"]):
        for query, label in enumerate(labels):
            said[place, query, label if label >= 0 else 3] = 9.0 - query
    outputs = {"logits": said, "pred_boxes": batch["boxes"]}
    first, second = learner.predictions(outputs, batch)
    np.testing.assert_allclose(first.boxes, [[3.5, 2, 13.5, 22.25], [1, 1, 31, 21]], atol=1e-4)
    np.testing.assert_allclose(second.boxes[0], [20, 90, 24, 95], atol=1e-4)
    assert first.labels.tolist() == [2, 0] and second.labels[0] == 1 and second.scores[0] > 0.99


@pytest.mark.parametrize(
    ("boxes", "labels", "said"),
    [
        ([[0, 0, 5, 5], [30, 0, 11.5, 5]], ["a", "b"], r"box 1 \(b\).*reaches out of the picture of 40 x 30 pixels"),
        ([[-1.5, 0, 5, 5]], ["a"], r"box 0 \(a\).*reaches out"),
        ([[0, 29, 5, 2.5]], ["a"], "reaches out"),
        ([[4, 4, 0, 5]], ["a"], "has no area"),
        ([[9, 4, -3, 5]], ["a"], "has no area"),
        ([[40, 4, 1, 5]], ["a"], "has no area"),
        ([[math.nan, 4, 1, 5]], ["a"], "is not finite"),
        ([[1, 4, math.inf, 5]], ["a"], "is not finite"),
        ([[1, 4, 2, 5]], ["a", "b"], "1 boxes and 2 labels"),
        ([[1, 4, 2, 5]], ["d"], "label 'd' is none of data.labels"),
        ([[1, 4, 2, 5]], [" "], "must be text"),
    ],
)
def test_a_box_that_cannot_be_is_an_error_with_its_place(boxes: Any, labels: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        row(40, 30, boxes, labels, known=Labels.listed(NAMES))
    assert error.value.where == "boxes.json image 7" and (error.value.fix or "1 boxes" in said)


def test_a_box_is_cut_by_at_most_a_pixel_and_counted() -> None:
    found = row(40, 30, [[-1, 0, 11, 5], [30, 20, 10.5, 11], [0, 0, 40, 30]], ["a", "b", "a"])
    assert found["boxes"] == [0, 0, 10, 5, 30, 20, 10, 10, 0, 0, 40, 30]
    assert found["counts"] == {"rows read": 1, "rows kept": 1, "boxes": 3, rows.CUT: 2}


def turned(width: int, height: int) -> bytes:
    """A picture that is stored so, and stands upright the other way round."""
    orientation = Image.Exif()
    orientation[0x0112] = 6
    return tiny_pictures.png(np.zeros((height, width, 3), np.uint8), format="JPEG", exif=orientation)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((30, 40), None),
        (None, None),
        ((40, 30), "as it is stored, 40 x 30 pixels, and upright, as its EXIF orientation has it, it is 30 x 40"),
        ((60, 80), "the boxes are for a picture of 60 x 80 pixels, and this one is 30 x 40"),
    ],
)
def test_boxes_belong_to_the_upright_picture(size: tuple[int, int] | None, said: str | None) -> None:
    example = {"image": turned(40, 30), "boxes": [[1, 2, 3, 4]], "labels": ["a"], "size": size}
    made = rows.rows("boxes.json image 7", example, Tools(None, Data(), "error", {}))
    with pytest.raises(DataError, match=f"^boxes.json image 7: .*{said}") if said else contextlib.nullcontext():
        assert len(list(made)) == 1
    assert len(list(rows.rows("here", example, Tools(None, Data(), "error", {}, labelled=False)))) == 1


def test_a_picture_without_boxes_is_a_row_and_one_to_predict_needs_none() -> None:
    assert row()["boxes"] == row(labelled=False)["labels"] == []
    batch = collated([row()], YolosImageProcessorPil(size={"height": 32, "width": 48}))
    assert batch["class_labels"].tolist() == [[-100]] and batch["sizes"].tolist() == [[30, 40]]


# --- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; of its rows, one has a box outside its picture and is skipped."""
    folder = tmp_path_factory.mktemp("boxes")
    written = tiny_tasks.make("object_detection", folder)
    file = folder / "train" / "boxes.json"
    whole = json.loads(file.read_text())
    whole["annotations"][0]["bbox"] = [30, 2, 30, 8]
    file.write_text(json.dumps(whole))
    assert tiny.train(written, f"output_dir={folder / 'run'}", "training.max_steps=2") == DataError.exit_code
    words = ["data.on_error=skip", "training.max_steps=2", "training.global_batch_size=8"]
    assert tiny.train(written, f"output_dir={folder / 'run'}", *words) == 0
    return folder / "run"


def test_a_row_with_a_bad_box_is_skipped_whole(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data.on_error=skip", "training.max_steps=2", "training.global_batch_size=8", "output_dir=/nowhere"]
    assert main(["plan", str(trained.parent / "tiny.yaml"), *words[:3]]) == 0
    assert "21 rows kept, 20 boxes, 1 rows skipped" in capsys.readouterr().out


def test_predictions_with_the_export_are_transformers_own(trained: Path, tmp_path: Path) -> None:
    """At a low threshold, since a model after two steps is sure of nothing."""
    pictured = sorted((trained.parent / "eval").glob("*.png"))
    words = ["predict", str(trained), *map(str, pictured), "--output", str(tmp_path / "out.jsonl")]
    assert main([*words, "--threshold", "0.2", "--pictures", str(tmp_path / "drawn")]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    export = trained / "export"
    processor = AutoImageProcessor.from_pretrained(export, backend="pil")
    finder = pipeline("object-detection", model=str(export), image_processor=processor, threshold=0.2)
    assert len(answers) == len(pictured)
    for answer, file in zip(answers, pictured, strict=True):
        own = sorted(finder(str(file)), key=lambda found: -found["score"])
        assert [found["label"] for found in answer["detections"]] == [found["label"] for found in own] != []
        for found, theirs in zip(answer["detections"], own, strict=True):
            assert found["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert found["box"] == pytest.approx(
                list(theirs["box"].values()), abs=1.01
            )  # theirs are cut to whole pixels
        assert (tmp_path / "drawn" / file.name).is_file() and answer["picture"].endswith(file.name)


def test_what_is_wrong_is_counted_drawn_and_named(trained: Path) -> None:
    details = json.loads((trained / "evaluation.json").read_text())
    assert [r[0] for r in details["table"]["rows"]] == ["tall", "wide"] and details["curves"]
    first = details["errors"][0]
    assert first["missed"] == 2 and first["reference"] == "1 tall, 1 wide" and first["predicted"] == "nothing"
    assert "boxes.json image" in first["where"] and (trained / first["picture"]).is_file()
    assert all((trained / shown["file"]).is_file() for shown in details["pictures"]) and len(details["pictures"]) == 5


def test_one_label_is_enough(tmp_path: Path) -> None:
    written = tiny_tasks.make("object_detection", tmp_path)
    for file in (tmp_path / "train" / "boxes.json", tmp_path / "eval" / "boxes.json"):
        whole = json.loads(file.read_text())
        annotations = [{**annotation, "category_id": 0} for annotation in whole["annotations"]]
        file.write_text(json.dumps({**whole, "annotations": annotations, "categories": whole["categories"][:1]}))
    assert main(["plan", str(written)]) == 0


def test_weights_of_queries_below_one_in_all_are_a_mean_all_the_same(tmp_path: Path) -> None:
    """Of a picture without boxes, every query weighs the same: how much changes neither loss nor gradient."""
    written = tiny_tasks.make("object_detection", tmp_path)
    file = tmp_path / "train" / "boxes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    words = ["data.labels=[tall, wide]", "training.max_steps=1", "training.global_batch_size=1"]
    for name, weight in (("one", 1.0), ("little", 0.001)):
        assert tiny.train(written, *words, f"output_dir={tmp_path / name}", f"loss={{eos_coefficient: {weight}}}") == 0
    for name in ("train/loss", "train/grad_norm"):
        assert tiny.losses(tmp_path / "little", name)[1] == pytest.approx(tiny.losses(tmp_path / "one", name)[1], 1e-4)


def test_heads_that_lie_within_a_body_or_in_lists_are_new_module_by_module() -> None:
    model = detector("rt_detr")
    by_label = [name for name, _ in model.named_parameters() if new_head.BY_LABEL & set(name.split("."))]
    new_head.refuse_mismatched(model, by_label, "here")
    with pytest.raises(EnvironmentProblem, match="another shape"):
        new_head.refuse_mismatched(model, ["model.decoder.bbox_embed.0.layers.0.weight"], "here")
    heads = new_head.of(model, by_label)
    assert {"model.enc_score_head", "model.decoder.class_embed.0", "model.decoder.class_embed.2"} <= set(heads)
    assert "bbox_embed.1" in new_head.of(detector("deformable_detr"), [])


def test_an_adapter_trains_the_heads_of_rt_detr_and_its_embedding_of_labels_in_full() -> None:
    model = detector("rt_detr")
    by_label = [name for name, _ in model.named_parameters() if new_head.BY_LABEL & set(name.split("."))]
    model.head_modules, model.peft_task_type = new_head.of(model, by_label), None
    adapted = apply_lora(model, LoraOptions(r=2))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    for head in model.head_modules:
        assert any(f".{head}.modules_to_save." in name for name in trained), head
    assert learned(adapted, [batch(3, 0, 5)]) > 0


def test_an_adapter_on_a_model_that_peft_cannot_wrap_is_refused() -> None:
    with pytest.raises(RecipeError, match="DeformableDetrForObjectDetection names none; set method: full"):
        apply_lora(detector("deformable_detr"), LoraOptions())


def hits_by_hand(predicted: Any, references: Any) -> tuple[list[bool], list[bool]]:
    found, taken = [False] * len(predicted["labels"]), [False] * len(references["labels"])
    for p in sorted(range(len(found)), key=lambda place: -predicted["scores"][place]):
        best, best_iou = None, 0.5
        for r in range(len(taken)):
            (ax, ay, bx, by), (cx, cy, dx, dy) = predicted["boxes"][p], references["boxes"][r]
            both = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
            iou = both / ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - both)
            if not taken[r] and predicted["labels"][p] == references["labels"][r] and iou >= best_iou:
                best, best_iou = r, iou
        if best is not None:
            found[p] = taken[best] = True
    return found, taken


def test_hits_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        sides = [np.concatenate([low := random.random((n, 2)) * 3, low + 2 + random.random((n, 2))], 1) for n in (9, 5)]
        labels = [random.integers(0, 2, n) for n in (9, 5)]
        predicted = {"boxes": sides[0], "labels": labels[0], "scores": random.random(9)}
        references = {"boxes": sides[1][: number % 6], "labels": labels[1][: number % 6]}
        found, taken = detection.hits(predicted, references)
        assert (found.tolist(), taken.tolist()) == hits_by_hand(predicted, references)
