"""The known models are what was published, cost what `launcher plan` says, and are found by what a person asks for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import known_models, recipe
from launcher.__main__ import main
from launcher.known_models import KINDS, METHODS, choice, count, small_data
from launcher.memory.cards import GIB, Card

ROOT = Path(__file__).parent.parent
BY_NAME = {known.name: known for known in known_models.models()}
PUBLISHED = {name: float(said["published"]) for name, said in known_models.facts().items() if "published" in said}
QUICK = ["google/flan-t5-small", "openai-community/gpt2", "facebook/deit-tiny-patch16-224"]
every = pytest.mark.parametrize("name", list(BY_NAME))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_all_facts_are_counted() -> None:
    assert list(BY_NAME) == list(known_models.facts()), "run python -m launcher.known_models.count"
    assert len(PUBLISHED) > 0.9 * len(BY_NAME) - 3


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameters_are_those_that_were_published(name: str) -> None:
    assert BY_NAME[name].parameters == pytest.approx(PUBLISHED[name], rel=0.01)


@pytest.mark.parametrize("name", QUICK)
def test_parameters_are_those_of_transformers(name: str) -> None:
    assert count.parameters(count.on_meta(name)) == BY_NAME[name].parameters


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "lora"),
        ("google/flan-t5-small", "full"),
        ("microsoft/resnet-18", "lora"),
    ],
)
def test_memory_is_what_the_plan_says(name: str, method: str) -> None:
    plan = count.planned(name, method)
    assert BY_NAME[name].memory_bytes.get(method) == (plan and plan.total_bytes_per_rank)


@pytest.mark.slow
@every
def test_all_that_is_stored_is_what_would_be_written_now(name: str) -> None:
    stored = {one["name"]: one for one in json.loads(known_models.COUNTED.read_text())["models"]}
    assert count.entry(name) == stored[name]


def test_a_known_model_stands_in_for_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` reaches what has no file under recipes/assets, and says where the shape is from."""
    words = ["model.name_or_path=microsoft/deberta-v3-xsmall", "method=lora", "--world", "1x1", "--card", "t4"]
    assert main(["plan", str(ROOT / "recipes" / "bert_text_classification.yaml"), *words]) == 0
    said = capsys.readouterr().out
    assert "the shape that ships with the launcher (microsoft/deberta-v3-xsmall)" in said
    assert "DebertaV2ForSequenceClassification" in said


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["models", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_filters_combine(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "--task", "text_classification", "--method", "qlora", "--gpu", "5GiB")["models"]
    assert {one["kind"] for one in found} == {"encoder", "decoder"}
    assert all("text_classification" in one["tasks"] and list(one["memory_bytes"]) == ["qlora"] for one in found)
    fits = {one["name"]: one["fits"] for one in found}
    for one in found:
        assert bool(one["fits"]) == (one["memory_bytes"]["qlora"] <= 5 * GIB)
    assert fits["Qwen/Qwen3-0.6B"] == ["qlora"] and fits["Qwen/Qwen3-32B"] == []
    none_to_adapt = listed(capsys, "--task", "image_classification", "--method", "lora")["models"]
    assert not any("resnet" in one["name"] for one in none_to_adapt)


def test_what_fits_is_decided_to_the_byte() -> None:
    known = BY_NAME["openai-community/gpt2"]
    size = known.memory_bytes["lora"]
    assert choice.fitting(known, choice.Asked(None, Card("x", size), METHODS)) == ("lora", "qlora")
    assert choice.fitting(known, choice.Asked(None, Card("x", size - 1), METHODS)) == ("qlora",)


def test_the_recipe_is_one_for_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    for task in sorted({task for known in BY_NAME.values() for task in known.tasks}):
        for one in listed(capsys, "--task", task)["models"]:
            path = ROOT / "recipes" / f"{one['recipe']}.yaml"
            assert recipe.load(path).task == task, (task, one)
    own = {one["name"]: one["recipe"] for one in listed(capsys, "--method", "lora")["models"]}
    assert own["meta-llama/Llama-3.1-8B-Instruct"] == "llama3.1_8b_lora"


@pytest.mark.parametrize("words", [(), ("--gpu", "h100"), ("--gpu", "t4", "--rows", "50")])
def test_the_table_is_legible(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    row = next(line for line in lines if line.startswith("meta-llama/Llama-3.1-8B-Instruct"))
    assert "8.03B" in row and "131,072" in row and "Llama 3.1" in row


def test_activations_that_are_not_known_are_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--task", "image_classification", "--gpu", "t4"]) == 0
    said = capsys.readouterr().out
    assert "without activations, which are not known" in said
    assert next(line for line in said.splitlines() if "resnet-50" in line).split()[-1] == "full?"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "text_clasification"), "did you mean text_classification?"),
        (("--method", "qlorra"), "did you mean qlora?"),
        (("--gpu", "h10"), "--gpu h10 is no card that the launcher knows; did you mean h100?"),
        (
            ("--recipe", str(ROOT / "recipes" / "gpt_lora.yaml"), "--task", "seq2seq_lm"),
            "the recipe's task is causal_lm",
        ),
    ],
)
def test_a_word_that_is_not_known(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words]) == 89
    assert message in capsys.readouterr().err


def test_it_does_not_wait_for_torch() -> None:
    """Nor for transformers or the readers of data."""
    code = (
        "import sys; from launcher.__main__ import main; assert main(['models', '--gpu', 'h100', '--rows', '50']) == 0; "
        "sys.exit(str({'torch', 'transformers', 'datasets'} & {*sys.modules}) if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rows", [1, small_data.VERY_FEW, small_data.FEW])
def test_advice_names_where_it_is_from_and_keys_that_there_are(rows: int) -> None:
    for kind in KINDS:
        given = [one for listed in small_data.advice(rows, [kind]).values() for one in listed]
        assert (given == [small_data.ENOUGH]) == (rows >= small_data.FEW)
        assert (small_data.HEAD_ALONE in given) == (rows < small_data.VERY_FEW and kind != "seq2seq")
        for one in given:
            assert "arXiv:" in one.source or small_data.THUMB in one.source
            recipe.load(ROOT / "recipes" / f"{KINDS[kind].recipe}.yaml", one.words)


def test_a_decoder_that_classifies_gets_no_advice_on_writing() -> None:
    tagging = small_data.advice(200, ["encoder", "decoder"], "token_classification")
    writing = small_data.advice(200, ["decoder"], "causal_lm")
    assert list(tagging) == ["to classify, tag or find", "in any case"]
    assert list(writing) == ["to write texts", "in any case"]


def test_rows_of_a_recipe_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "recipes" / "bert_text_regression.yaml"
    found = listed(capsys, "--recipe", str(path))
    data = ROOT / "recipes" / "data" / "example_similarity.csv"
    assert found["rows"] == len(data.read_text().strip().splitlines()) - 1
    assert {one["kind"] for one in found["models"]} == {"encoder", "decoder"}
    assert any("arXiv:2006.04884" in one["source"] for one in found["advice"])
