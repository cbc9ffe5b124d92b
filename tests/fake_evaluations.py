"""Makes finished runs of the classic tasks with an evaluation in detail, for the tests of the report and for the eye."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from fake_run import BEGAN, make_run
from PIL import Image, ImageDraw

from launcher.data import drawing

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' {{ 7*7 }} \ud800"
LONG = "The plot moves along, the actors do what they can, and still nothing of it stays. " * 12
CELLS = ["RBC", "WBC", "Platelets"]
REGIONS = ["background", "nucleus", "rim"]
# Task, evaluation in detail, each metric before and after, and what a line of metrics counts.
Kind = tuple[str, dict[str, Any], dict[str, tuple[float, float]], str]


def make_evaluated(path: Path, kind: str) -> Path:
    """A run of a kind of KINDS, with evaluation.json and the pictures that it names."""
    task, evaluation, metrics, unit = KINDS[kind](path)
    recipe = (
        f"name: {kind}\ntask: {task}\nmethod: full\nmodel: {{name_or_path: assets/tiny-encoder}}\n"
        f"evaluation: {{metric_for_best_model: {list(metrics)[-1]}}}\n"
    )
    return make_run(
        path,
        recipe=recipe,
        metrics=lines(metrics, unit),
        samples=None,
        evaluation={"step": 200, "task": task, **evaluation},
    )


def lines(metrics: dict[str, tuple[float, float]], unit: str, steps: int = 200) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl that go from the first value of each metric to its second."""
    noise = random.Random(3)
    records = []
    for step in range(0, steps + 1, 10):
        done = (step / steps) ** 0.5
        at = {"step": step, "epoch": step / 50, unit: step * 32, "time": BEGAN + step}
        if step:
            training = {"train/loss": 1.1 - 0.9 * done + noise.gauss(0, 0.03), "train/learning_rate": 1e-4}
            records.append(at | training | {f"train/{unit}_per_second": 310 + noise.gauss(0, 9)})
        if step % 50 == 0:
            records.append(at | {name: before + (after - before) * done for name, (before, after) in metrics.items()})
    return records


def counts(labels: int, support: int, accuracy: float, seed: int = 0) -> list[list[int]]:
    """A confusion matrix whose errors fall mostly on the neighbouring classes."""
    generator = np.random.default_rng(seed)
    apart = np.abs(np.subtract.outer(np.arange(labels), np.arange(labels)))
    odds = np.where(apart == 0, accuracy, (1 - accuracy) * 0.5 ** (apart + 0.5))
    sizes = generator.integers(support // 2, support + 1, labels)
    return [generator.multinomial(n, p / p.sum()).tolist() for n, p in zip(sizes, odds, strict=True)]


def per_class(labels: list[str], matrix: list[list[int]]) -> dict[str, Any]:
    array = np.array(matrix)
    hits, reference, predicted = array.diagonal(), array.sum(1), array.sum(0)
    columns = hits / np.maximum(predicted, 1), hits / np.maximum(reference, 1), 2 * hits / (reference + predicted)
    rows = [[name, *(float(c[i]) for c in columns), int(reference[i])] for i, name in enumerate(labels)]
    return {"columns": ["class", "precision", "recall", "f1", "support"], "rows": rows}


def curve(labels: list[str]) -> dict[str, Any]:
    recall = [i / 50 for i in range(51)]
    lines = [
        {"name": name, "points": [[r, 1 - r ** (9 - i % 7) * (0.5 + 0.04 * i)] for r in recall]}
        for i, name in enumerate(labels)
    ]
    return {"title": "Precision and recall", "x": "recall", "y": "precision", "lines": lines}


def three_classes(path: Path) -> Kind:
    labels = ["negative", "neutral", "positive"]
    matrix = counts(3, 400, 0.93)
    texts = ["I did not dislike it.", "Fine.", LONG, "Über & über <b>bold</b>", "", "这部电影还可以", HOSTILE]
    errors = [
        {"where": f"data/test.csv:{12 + 7 * i}", "input": text, "reference": labels[i % 3],
         "predicted": labels[(i + 1) % 3], "confidence": 0.99 - 0.03 * i, "second": labels[i % 3]}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    evaluation = {
        "confusion_matrix": {"labels": labels, "counts": matrix},
        "table": per_class(labels, matrix),
        "curves": [curve(labels), curve([f"class {i}" for i in range(10)])],
        "errors": errors,
        "notes": ["3 rows of the evaluation data also stand in the training data."],
    }
    metrics = {"eval/loss": (1.1, 0.24), "eval/accuracy": (0.34, 0.93), "eval/f1_macro": (0.3, 0.92)}
    return "text_classification", evaluation, metrics, "tokens"


def many_classes(path: Path) -> Kind:
    verbs = ["card", "top_up", "transfer", "cash", "exchange", "pin", "refund"]
    things = ["arrival", "fee_charged", "not_working", "limit", "pending", "lost", "how_long", "verify"]
    things += ["cancelled", "wrong_amount_shown_in_app", "by_mistake"]
    labels = [f"{verb}_{thing}" for verb in verbs for thing in things]
    matrix = counts(77, 40, 0.9)
    evaluation = {"confusion_matrix": {"labels": labels, "counts": matrix}, "table": per_class(labels, matrix)}
    return "text_classification", evaluation, {"eval/loss": (4.3, 0.4), "eval/accuracy": (0.01, 0.9)}, "tokens"


def boxes(path: Path) -> Kind:
    """Six drawings, one file that is missing and one that is no picture."""
    pictures = []
    for number in range(6):
        image, corners, labels = cells(number)
        scores = [0.5 + 0.06 * i for i in range(len(labels))]
        moved = [[a + 6, b - 5, c + 9, d + 3] for a, b, c, d in corners]
        drawn = drawing.beside(
            drawing.boxes(image, corners, labels, colour_of=drawing.colours(CELLS)),
            drawing.boxes(image, moved, labels, scores, drawing.colours(CELLS)),
            titles=["reference", "predicted"],
        )
        caption = f"reference: {len(labels)} cells; predicted: {len(labels)} cells"
        pictures.append({"file": save(drawn, path, number), "where": f"images/{number:03}.jpg", "caption": caption})
    (path / "pictures" / "torn.png").write_bytes(b"\x89PNG torn")
    pictures += [{"file": "pictures/gone.png", "caption": "gone"}, {"file": "pictures/torn.png", "caption": "torn"}]
    errors = [
        {"where": p["where"], "input": "found nothing", "reference": ["RBC", "WBC"], "predicted": [], "picture": p["file"]}
        for p in pictures[:3]
    ]  # fmt: skip
    rows = [["RBC", 0.61, 0.9, 371], ["WBC", 0.72, 0.97, 38], ["Platelets", 0.31, None, 0]]
    table = {"columns": ["class", "map", "map_50", "boxes"], "rows": rows}
    evaluation = {"table": table, "curves": [curve(CELLS)], "errors": errors, "pictures": pictures}
    metrics = {"eval/loss": (9.1, 2.24), "eval/map_50": (0.01, 0.83), "eval/map": (0.0, 0.55)}
    return "object_detection", evaluation, metrics, "images"


def masks(path: Path) -> Kind:
    pictures = []
    for number in range(3):
        image, corners, _ = cells(number, size=(256, 256), least=14)
        reference = regions(corners, image.size)
        predicted = np.roll(reference, 5, axis=1)
        drawn = [image, drawing.mask(image, reference, REGIONS), drawing.mask(image, predicted, REGIONS)]
        sheet = drawing.beside(*drawn, titles=["image", "reference", "predicted"])
        pictures.append({"file": save(sheet, path, number), "where": f"{number:03}.png", "caption": "mean IoU 0.81"})
    rows = [["background", 0.956, 1_234_534], ["nucleus", 0.805, 450_673], ["rim", 0.558, 131_504]]
    evaluation = {
        "confusion_matrix": {
            "labels": REGIONS,
            "counts": [[1_204_551, 20_113, 9_870], [18_004, 402_118, 30_551], [7_100, 28_400, 96_004]],
        },
        "table": {"columns": ["class", "iou", "pixels"], "rows": rows},
        "pictures": pictures,
    }
    metrics = {"eval/loss": (1.1, 0.2), "eval/mean_iou": (0.2, 0.77)}
    return "semantic_segmentation", evaluation, metrics, "images"


def cells(seed: int, size: tuple[int, int] = (640, 480), least: int = 24) -> tuple[Any, list[list[float]], list[str]]:
    """A picture of round spots on pale ground with their boxes and labels."""
    chance = random.Random(seed)
    image = Image.new("RGB", size, (232, 222, 214))
    pen = ImageDraw.Draw(image)
    corners, labels = [], []
    for _ in range(6):
        radius = chance.randint(least, 2 * least)
        x, y = chance.randint(0, size[0] - radius), chance.randint(0, size[1] - radius)
        box = [x - radius, y - radius, x + radius, y + radius]
        label = chance.choice(CELLS)
        pen.ellipse(box, fill={"RBC": (214, 140, 130), "WBC": (120, 80, 150), "Platelets": (150, 110, 170)}[label])
        corners.append([float(max(0, edge)) for edge in box])
        labels.append(label)
    return image, corners, labels


def regions(corners: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """(height, width) class numbers of REGIONS: discs with a rim."""
    image = Image.new("L", size)
    for box in corners:
        ImageDraw.Draw(image).ellipse(box, fill=1, outline=2, width=4)
    return np.asarray(image)


def save(picture: Any, path: Path, number: int) -> str:
    file = path / "pictures" / f"{number:04}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return f"pictures/{file.name}"


KINDS = {"three_classes": three_classes, "many_classes": many_classes, "boxes": boxes, "masks": masks}
