"""Prompt and prefix tuning: what is trained, that PEFT gives the same loss, and runs that resume, export and answer."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_tasks
import torch
import transformers
from safetensors.torch import load_file

from launcher import parts
from launcher.__main__ import main
from launcher.errors import RecipeError
from launcher.recipe import RecipeErrors, load

METHODS = {name: [f"method={name}", "adapter.num_virtual_tokens=3"] for name in ("prompt_tuning", "prefix_tuning")}
SHORT = ["data.max_length=48", "checkpoint.save_steps=2", "evaluation.metrics=[loss]"]


@pytest.fixture(scope="module")
def prompted(recipe: Path) -> Path:
    """The tiny recipe without the options of LoRA."""
    path = recipe.with_name("prompted.yaml")
    path.write_text(recipe.read_text().replace("adapter: {r: 4, lora_alpha: 8}\n", ""))
    return path


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, prompted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompt") / request.param
    words = [*METHODS[request.param], *SHORT, "optimizer.learning_rate=0.3", "training.max_steps=6"]
    assert tiny.train(prompted, *words, "export.verify=true", f"output_dir={folder}") == 0
    return folder


def test_only_the_prompt_is_trained_and_the_loss_falls(run: Path) -> None:
    state = load_file(run / "checkpoints" / "step-00000006" / "model" / "adapter_model.safetensors")
    assert list(state) == ["prompt_embeddings"]
    width = {"prompt_tuning": 32, "prefix_tuning": 2 * 2 * 2 * 8}[
        run.name
    ]  # layers * (key, value) * heads * their size
    assert state["prompt_embeddings"].shape == (3, width)
    plan = json.loads((run / "plan.json").read_text())["values"]
    assert plan["trainable_parameters"]["value"] == 3 * width
    assert plan["loss"]["value"] == "torch" and "prompt" in plan["loss"]["origin"]
    measured = tiny.losses(run, "eval/loss")
    assert measured[6] < measured[0]


def test_the_exported_prompt_gives_pefts_own_loss(run: Path, prompted: Path) -> None:
    """Of the evaluation rows, each by itself, as plain transformers and PEFT compute it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(prompted.parent / "model")
    model, tokenizer = (
        PeftModel.from_pretrained(base, run / "export").eval(),
        AutoTokenizer.from_pretrained(run / "export"),
    )
    total = count = 0.0
    for line in (prompted.parent / "eval.jsonl").read_text().splitlines():
        ids, labels = learned(json.loads(line)["messages"], tokenizer)
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        number = sum(label != -100 for label in labels)
        total, count = total + float(loss) * number, count + number
    assert total / count == pytest.approx(tiny.losses(run, "eval/loss")[6], rel=1e-4)


def learned(messages: list, tokenizer: object) -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and those of the assistant's turns with their ends: by the words of the tiny template."""
    ids, labels = [], []
    for message in messages:
        begin = tokenizer(f"<|{message['role']}|>")["input_ids"]
        rest = tokenizer(f"{message['content']} <|end|>")["input_ids"]
        ids += begin + rest
        labels += [-100] * len(begin) + (rest if message["role"] == "assistant" else [-100] * len(rest))
    return ids, labels


def test_a_resumed_run_is_the_whole_one(run: Path, prompted: Path, tmp_path: Path) -> None:
    again = shutil.copytree(run, tmp_path / "again")
    words = [*METHODS[run.name], *SHORT, "optimizer.learning_rate=0.3", "training.max_steps=6"]
    back = str(again / "checkpoints" / "step-00000002")
    assert tiny.train(prompted, *words, f"output_dir={again}", "--resume", back) == 0
    name = Path("checkpoints") / "step-00000006" / "model" / "adapter_model.safetensors"
    assert (again / name).read_bytes() == (run / name).read_bytes()
    assert tiny.losses(again) == tiny.losses(run)


def test_a_prompted_model_answers(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["generate", str(run), "--prompt", "the cat sees"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_train_one_prompt(prompted: Path, tmp_path: Path, strategy: str) -> None:
    found = []
    for world, more in ((1, []), (2, [f"distributed.strategy={strategy}"])):
        folder, log = tmp_path / str(world), tmp_path / f"{world}.log"
        words = ["train", str(prompted), *METHODS["prompt_tuning"], *SHORT, *more, f"output_dir={folder}"]
        assert tiny.Ranks(world, words, log).wait() == [0] * world, log.read_text()
        found.append(tiny.losses(folder))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_prompt_before_a_source(tmp_path: Path) -> None:
    recipe = tiny_tasks.make("seq2seq_lm", tmp_path)
    words = [*METHODS["prompt_tuning"], "training.max_steps=2", "export.verify=true", f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(recipe, *words) == 0
    assert list(load_file(tmp_path / "run" / "export" / "adapter_model.safetensors")) == ["prompt_embeddings"]
    with pytest.raises(RecipeErrors, match="a prefix for all but the last"):
        load(recipe, METHODS["prefix_tuning"])


@pytest.mark.parametrize(
    ("method", "family", "problem"),
    [
        ("prompt_tuning", "llama", "cannot tell the last token of a text from padding"),
        ("prefix_tuning", "modernbert", "takes no keys and values from before"),
    ],
)
def test_models_that_cannot_have_a_prompt_are_refused(method: str, family: str, problem: str) -> None:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.AutoConfig.for_model(family, vocab_size=9, pad_token_id=0, **sizes)
    part = parts.load("adapters", method)
    with pytest.raises(RecipeError, match=problem):
        part.apply(transformers.AutoModelForSequenceClassification.from_config(config), part.Config())


def test_a_new_head_is_trained_in_fp32_beside_16_bits(tmp_path: Path) -> None:
    recipe = tiny_tasks.make("text_classification", tmp_path)
    words = [*METHODS["prompt_tuning"], "training.max_steps=2", "training.precision=bf16", "export.verify=true"]
    log = tmp_path / "log"
    ranks = tiny.Ranks(1, ["train", str(recipe), *words, f"output_dir={tmp_path / 'run'}"], log)
    assert ranks.wait() == [0], log.read_text()
    state = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / "model" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.parametrize("task", ["text_classification", "text_regression"])
def test_a_prompt_before_a_new_head(task: str, tmp_path: Path) -> None:
    """The head is trained and exported with it."""
    recipe = tiny_tasks.make(task, tmp_path)
    words = [*METHODS["prompt_tuning"], "training.max_steps=2", "export.verify=true", f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(recipe, *words) == 0
    state = load_file(tmp_path / "run" / "export" / "adapter_model.safetensors")
    assert {name.rsplit(".", 2)[-2] for name in state if "." in name} >= {"classifier"} and "prompt_embeddings" in state
    (tmp_path / "asked.csv").write_text("text,text_pair\na red cat,the river\n")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "asked.csv")]) == 0


def test_where_a_prompt_starts(prompted: Path, tmp_path: Path) -> None:
    """Of a text, with its embeddings, as often as it takes."""
    begin = load_file(prompted.parent / "model" / "model.safetensors")["model.embed_tokens.weight"]
    text = ["adapter.prompt_tuning_init=TEXT", "adapter.prompt_tuning_init_text=the cat"]
    words = [
        *METHODS["prompt_tuning"],
        *text,
        *SHORT,
        "training.max_steps=1",
        "scheduler.warmup_steps=0",
        "optimizer.learning_rate=1.0e-30",
    ]
    assert tiny.train(prompted, *words, "optimizer.weight_decay=0.0", f"output_dir={tmp_path / 'run'}") == 0
    name = tmp_path / "run" / "checkpoints" / "step-00000001" / "model" / "adapter_model.safetensors"
    the, cat = 5 + tiny.WORDS.index("the"), 5 + tiny.WORDS.index("cat")
    torch.testing.assert_close(load_file(name)["prompt_embeddings"], begin[[the, cat, the]])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["data.packing=true"], "a prompt stands before a sequence"),
        (["distributed.strategy=zero3"], "past ZeRO's sharding"),
        (["export.merge=true"], "no part of the weights"),
        (["adapter.prompt_tuning_init=TEXT"], "go together"),
        (["adapter.prompt_tuning_init=TEXT", "adapter.prompt_tuning_init_text=' '"], "go together"),
    ],
)
def test_what_does_not_go_with_a_prompt_is_refused(prompted: Path, words: list[str], problem: str) -> None:
    with pytest.raises(RecipeErrors, match=problem):
        load(prompted, [*METHODS["prompt_tuning"], *words])


def test_a_prompt_takes_positions(prompted: Path, capsys: pytest.CaptureFixture) -> None:
    assert tiny.train(prompted, *METHODS["prompt_tuning"]) == 89
    assert "64 and 3 of the prompt are more than the 64 positions" in capsys.readouterr().err


def test_other_tasks_have_no_prompt(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors, match="no longer where they are looked for"):
        load(tiny_tasks.make("token_classification", tmp_path), METHODS["prompt_tuning"])


def test_a_prefix_is_lost_on_layers_that_are_recomputed(prompted: Path) -> None:
    with pytest.raises(RecipeErrors, match="has lost the prefix"):
        load(prompted, [*METHODS["prefix_tuning"], "training.gradient_checkpointing=true"])
