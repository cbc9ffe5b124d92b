"""Every shipped recipe is valid, plans without a network and, with a stand-in for its model of the hub, trains."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pictures
from stand_in import shrink

from launcher import parts, recipe
from launcher.__main__ import main

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "recipes" / "assets"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SHAPES = {path.stem.replace("--", "/"): path for path in (ASSETS / "configs").glob("*.json")}
HUB_RECIPES = [path for path in RECIPES if any(f"name_or_path: {name}" in path.read_text() for name in SHAPES)]
SHORT = [
    "training.max_steps=2",
    "training.global_batch_size=4",
    "training.per_device_train_batch_size=2",
    "training.gradient_accumulation_steps=null",
    "training.precision=fp32",
    "logging.logging_steps=1",
    "export.verify=false",  # test_export.py proves exports
]
named = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@named
def test_head_comment_tells_what_it_takes(path):
    head = path.read_text().split("\n\n")[0]
    assert head.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    for word in ("Hardware:", "Time:", "Result:", "Command:"):
        assert word in head
    assert f"-m launcher recipes/{path.name}" in head
    assert "@@" not in head


@named
def test_plans_for_a_node_of_gpus_without_a_network(path, tmp_path, capsys):
    training = recipe.load(path).training
    most = 8 if path in HUB_RECIPES else 2  # the embedded ones are for small machines
    world = min(most, training.global_batch_size // training.per_device_train_batch_size)
    assert main(["plan", str(path), f"data.cache_dir={tmp_path}", "--world", f"1x{world}", "--json"]) == 0
    values = {key: cell["value"] for key, cell in json.loads(capsys.readouterr().out)["values"].items()}
    assert values["world_size"] == world
    assert values["micro_batches_per_step"] * values["per_device_train_batch_size"] == values["global_batch_size"]
    name = recipe.load(path).model.name_or_path
    if name in SHAPES and values["method"] == "full" and values["task"] in ("causal_lm", "text_classification"):
        assert values["parameters"] == json.loads(SHAPES[name].read_text())["_parameters"]


def test_the_plan_is_there_on_the_command_line():
    command = [
        sys.executable,
        "-m",
        "launcher",
        "plan",
        str(ROOT / "recipes" / "gpt2_lora.yaml"),
        "--world",
        "1x8",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["values"]["name"]["value"] == "gpt2_lora"


def test_embedded_data_is_what_its_script_makes():
    for name in ("make_numbers", "make_tones"):
        assert (
            subprocess.run([sys.executable, str(ROOT / "recipes" / "data" / f"{name}.py"), "--check"]).returncode == 0
        )


def test_every_published_shape_has_a_recipe():
    assert {recipe.load(path).model.name_or_path for path in HUB_RECIPES} == set(SHAPES)


@pytest.fixture(scope="session")
def stand_in_of(tmp_path_factory):
    """A recipe -> folder with a tiny random model of the same architecture, and the shipped tokenizer or its own processor."""
    import transformers
    from transformers import AutoConfig, AutoTokenizer, Wav2Vec2FeatureExtractor

    made: dict[str, Path] = {}

    def folder(shipped: recipe.Recipe) -> Path:
        name = shipped.model.name_or_path
        if name not in made:
            traits = parts.load("tasks", shipped.task).TRAITS
            auto_class = getattr(transformers, traits.auto_class)
            shape = {key: value for key, value in json.loads(SHAPES[name].read_text()).items() if key[0] != "_"}
            config = AutoConfig.for_model(shape.pop("model_type"), **shape)
            tokenizer = AutoTokenizer.from_pretrained(ASSETS / "python_gpt")
            made[name] = tmp_path_factory.mktemp(name.replace("/", "--"))
            auto_class.from_config(shrink(config, len(tokenizer))).save_pretrained(made[name])
            used = {"tokenizer": tokenizer, "feature_extractor": Wav2Vec2FeatureExtractor(return_attention_mask=False)}
            if traits.processor in used:
                used[traits.processor].save_pretrained(made[name])
            else:
                tiny_pictures.save_processor(config.model_type, made[name])
        return made[name]

    return folder


def first_rows(source: str, folder: Path) -> Path:
    """A file with the first rows of a data file, for the sake of time; one of sounds or pictures is short as it is."""
    part = folder / Path(source).name
    if part.suffix == ".parquet":
        return Path(source)
    with open(source, encoding="utf-8") as rows:
        part.write_text("".join(itertools.islice(rows, 48)), encoding="utf-8")
    return part


@pytest.mark.parametrize("path", HUB_RECIPES, ids=lambda path: path.stem)
def test_trains_two_steps_with_a_stand_in(path, stand_in_of, tmp_path):
    shipped, run = recipe.load(path), tmp_path / "run"
    overrides = [
        *SHORT,
        f"model.name_or_path={stand_in_of(shipped)}",
        f"data.train.0.path={first_rows(shipped.data.train[0].path, tmp_path)}",
        f"data.eval.0.path={first_rows(shipped.data.eval[0].path, tmp_path)}",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"output_dir={run}",
    ]
    traits = parts.load("tasks", shipped.task).TRAITS
    if "max_length" in traits.data_keys:
        overrides.append("data.max_length=128")
    if traits.generated_metrics:
        overrides.append("evaluation.max_new_tokens=4")
    if shipped.model.dtype == "bf16":  # such weights compute in bf16
        overrides[overrides.index("training.precision=fp32")] = "training.precision=bf16"
    assert main([str(path), *overrides]) == 0

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    evaluated = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    assert set(losses) == {1, 2} and set(evaluated) >= {0, 2}
    assert all(math.isfinite(loss) for loss in (*losses.values(), *evaluated.values()))
    weights = "model.safetensors" if shipped.method == "full" or shipped.export.merge else "adapter_model.safetensors"
    assert any((run / "export").rglob(weights))
