"""The plan's arithmetic, and where it says each number comes from."""

import dataclasses
from pathlib import Path

import pytest
import tiny

from launcher import plan, recipe
from launcher.__main__ import main
from launcher.errors import RecipeError
from launcher.model_facts import ModelFacts, Weight
from launcher.world import World

WEIGHTS = (Weight((10, 8), True, hidden=True), Weight((20,), True, group=1), Weight((900,), False))
FACTS = ModelFacts("Tiny", 1000, 100, 64, False, "fused", "auto: plain linear head", "here", weights=WEIGHTS)
SHAPED = dataclasses.replace(FACTS, num_layers=2, hidden_size=8)  # as much as counting memory takes


def make(path: Path, *overrides: str, world: World | None = None, facts: ModelFacts = FACTS) -> plan.Plan:
    return plan.make(recipe.load(path, overrides), world or World(), facts, None, "no data here")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A recipe that leaves everything open."""
    tiny.save_tokenizer(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"text": "the cat"}\n')
    (tmp_path / "bare.yaml").write_text(
        "task: causal_lm\nmethod: lora\nmodel: {name_or_path: model}\ndata: {train: [{path: train.jsonl}], max_length: 64}\n"
    )
    return tmp_path / "bare.yaml"


def test_a_loss_that_cannot_be_fused_is_refused_before_the_run(tmp_path: Path) -> None:
    """As the run would: `fused` is a wish that only some heads can fulfil."""
    recipe_file = tiny.make(tmp_path)
    dora = ["adapter.target_modules=[lm_head]", "adapter.use_dora=true"]
    assert main(["plan", str(recipe_file), *dora]) == 0
    assert main(["plan", str(recipe_file), *dora, "loss.implementation=fused"]) == 89


def test_a_leaf_module_that_the_model_does_not_have_is_refused_before_the_run(recipe: Path, capsys) -> None:
    words = ["plan", str(recipe), "distributed.strategy=zero3"]
    assert main([*words, "distributed.zero_leaf_modules=[LlamaMLP]"]) == 0
    assert main([*words, "distributed.zero_leaf_modules=[LlamaMPL, LlamaMLP]"]) == 89
    assert "LlamaMPL is no class of a module of this model; it has " in capsys.readouterr().err


G, B, A = "training.global_batch_size", "training.per_device_train_batch_size", "training.gradient_accumulation_steps"


@pytest.mark.parametrize(
    ("given", "world", "expected"),
    [
        ({}, 1, (8, 1, 8)),
        ({}, 4, (8, 1, 2)),
        ({G: 16}, 2, (16, 1, 8)),
        ({B: 4}, 2, (8, 4, 1)),
        ({A: 3}, 2, (6, 1, 3)),
        ({G: 16, B: 2}, 4, (16, 2, 2)),
        ({G: 16, A: 2}, 4, (16, 2, 2)),
        ({B: 2, A: 3}, 4, (24, 2, 3)),
    ],
)
def test_two_batch_numbers_give_the_third(bare: Path, given: dict, world: int, expected: tuple) -> None:
    made = make(bare, *(f"{key}={value}" for key, value in given.items()), world=World(1, world))
    numbers = (made.global_batch_size, made.per_device_train_batch_size, made.gradient_accumulation_steps)
    assert numbers == expected
    assert made.per_device_train_batch_size * made.micro_batches_per_step == made.global_batch_size


def test_an_inexact_division_lists_the_worlds_that_fit(bare: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"not a multiple of .* 2 x 5 processes; world sizes that fit: 1, 2, 3, 6"
    ) as found:
        make(bare, f"{G}=12", f"{B}=2", world=World(1, 5))
    assert "command line" in str(found.value)


def test_every_value_has_an_origin(bare: Path) -> None:
    made = make(bare, "training.max_steps=10", "seed=7")
    values = made.as_json()["values"]
    assert all(cell["origin"] for cell in values.values())
    assert values["seed"] == {"value": 7, "origin": "command line"}
    assert values["method"]["origin"].endswith("bare.yaml:2:1")
    assert values["train_rows"] == {"value": None, "origin": "unknown: no data here"}


def test_shares_of_all_steps(bare: Path) -> None:
    words = ["training.max_steps=200", "scheduler.warmup_steps=0.03", "checkpoint.save_steps=0.25"]
    made = make(bare, *words)
    assert (made.warmup_steps, made.save_steps, made.eval_steps) == (6, 50, None)


@pytest.mark.parametrize(
    ("world", "asked", "expected"),
    [
        (World(), "auto", "fp32"),
        (World(bf16=True), "auto", "bf16"),
        (World(device="cuda", bf16=True), "auto", "bf16"),
        (World(device="cuda"), "auto", "fp16"),
        (World(device="cuda", bf16=True), "fp32", "fp32"),
    ],
)
def test_precision_follows_the_hardware(bare: Path, world: World, asked: str, expected: str) -> None:
    made = make(bare, f"training.precision={asked}", world=world)
    assert made.precision == expected
    assert made.model_dtype == expected
    assert make(bare, f"training.precision={asked}", "method=full", world=world).model_dtype == "fp32"


def test_what_cannot_be_is_refused(bare: Path) -> None:
    with pytest.raises(RecipeError, match="TF32 is a way in which NVIDIA GPUs multiply, and there is no GPU"):
        make(bare, "training.precision=tf32")
    with pytest.raises(RecipeError, match="strategy none trains one process"):
        make(bare, "distributed.strategy=none", world=World(1, 2))
    with pytest.raises(RecipeError, match="128 is more than the 64 positions"):
        make(bare, "data.max_length=128")


def test_the_loss_says_how_it_will_go_about_it(bare: Path) -> None:
    asked: list[tuple] = []

    def way(*sizes) -> str:
        asked.append(sizes)
        return "chunk, 128 rows at a time"

    facts = dataclasses.replace(FACTS, loss_way=way)
    made = make(bare, f"{B}=2", world=World(device="cuda", bf16=True), facts=facts)
    assert (made.loss, made.origins["loss"]) == ("fused", "auto: plain linear head; chunk, 128 rows at a time")
    assert asked == [(2 * 64, "bf16", "bf16", "cuda")]
    assert make(bare).origins["loss"] == "auto: plain linear head"


def test_bytes_are_parameters_times_their_size(bare: Path) -> None:
    lora = make(bare, world=World(device="cuda", bf16=True), facts=SHAPED)
    assert lora.weight_bytes_per_rank == 900 * 2 + 100 * 4
    assert (lora.gradient_bytes_per_rank, lora.optimizer_bytes_per_rank) == (400, 800)
    sgd = make(bare, "optimizer.name=sgd", "optimizer.momentum=0.9", facts=SHAPED)
    assert sgd.optimizer_bytes_per_rank == 400
    muon = make(bare, "optimizer.name=muon", facts=SHAPED)
    assert muon.optimizer_bytes_per_rank == 80 * 4 + 20 * 8


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_an_optimizer_for_gpus_is_refused_on_a_cpu(bare: Path, name: str) -> None:
    with pytest.raises(
        RecipeError,
        match="command line: optimizer.name: its states are paged by CUDA, and there is no GPU; use adamw",
    ):
        make(bare, f"optimizer.name={name}")
    made = make(bare, f"optimizer.name={name}", world=World(device="cuda", bf16=True), facts=SHAPED)
    assert made.optimizer_bytes_per_rank == 800


def test_the_sketch_of_the_learning_rate_has_its_shape_and_its_ends(recipe: Path, capsys) -> None:
    from launcher.__main__ import main
    from launcher.verbs.plan import sketched

    words = ["training.max_steps=120", "scheduler={name: linear, warmup_steps: 60}", "optimizer.learning_rate=0.01"]
    assert main(["plan", str(recipe), *words]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("learning rate, ")]
    drawn = line.removeprefix("learning rate, steps 1-120: ").split()[0]
    rising, falling = drawn[:30], drawn[30:]
    assert len(drawn) == 60 and list(rising) == sorted(rising) and list(falling) == sorted(falling, reverse=True)
    assert line.endswith("1.64e-04, at most 1.00e-02, 1.67e-04 at the end")
    assert drawn[0] == drawn[-1] == "▁" and sketched([0.0, 4.0, 8.0, 0.0], 2).startswith("▃▅ ")


def test_the_plan_names_the_techniques(tmp_path: Path) -> None:
    recipe_file = tiny.make(tmp_path)
    plain, rich = (
        make(recipe_file),
        make(
            recipe_file,
            "data.clean=[{name: trim, columns: [text]}, {name: drop_empty}]",
            "regularization={dropout: 0.2, neftune_noise_alpha: 5.0, l1: 0.1}",
        ),
    )
    assert (plain.clean, plain.dropout, plain.neftune_noise_alpha, plain.l1, plain.sampling) == (
        (),
        None,
        0.0,
        0.0,
        "natural",
    )
    assert rich.clean == ("trim: columns ['text'], collapse_spaces False", "drop_empty: eval False")
    assert (rich.dropout, rich.neftune_noise_alpha, rich.l1) == (0.2, 5.0, 0.1)
    assert "\n  clean " in rich.as_text() and "\n  stage " not in rich.as_text()
