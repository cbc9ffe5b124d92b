"""Cards, the choice of a strategy, and what `plan` says about memory; on the shapes of published models.

The bytes themselves are compared with reality in test_memory_reality.py and test_memory_peak.py.
"""

import dataclasses
import json
import re
from functools import cache
from pathlib import Path

import other_ranks
import pytest
import tiny
from workers import Workers

from launcher import model, parts, plan, recipe
from launcher.__main__ import main
from launcher.errors import RecipeError
from launcher.memory.cards import CARDS, GIB, card
from launcher.model_facts import ModelFacts
from launcher.world import World

RECIPES = Path(__file__).parent.parent / "recipes"


@cache
def facts_of(name: str, *words: str) -> ModelFacts:
    read = recipe.load(RECIPES / f"{name}.yaml", list(words))
    return model.facts(read, parts.load_whole("tasks", read.task), parts.load("adapters", read.method))


def planned(name: str, *words: str, gpus: int = 1, memory_gib: float | None = 80, **world) -> plan.Plan:
    where = World(1, gpus, device="cuda", bf16=True, memory_bytes=memory_gib and int(memory_gib * GIB), **world)
    read = recipe.load(RECIPES / f"{name}.yaml", list(words))
    method = [word for word in words if word.startswith(("method=", "adapter"))]
    return plan.make(read, where, facts_of(name, *method), None, "not asked")


# what is known of large models


def test_bytes_a_parameter_of_full_training() -> None:
    """ZeRO's own reckoning is 16 bytes a parameter with 16-bit gradients (arXiv:1910.02054, section 3.1); ours are fp32."""
    numel = facts_of("llama3.1_8b_full").parameters
    for dtype, bytes_a_parameter in (("bf16", 2 + 4 + 4 + 8), ("fp32", 4 + 4 + 4 + 8)):
        made = planned("llama3.1_8b_full", "distributed.strategy=zero3", f"model.dtype={dtype}", gpus=8)
        held = made.weight_bytes_per_rank + made.gradient_bytes_per_rank + made.optimizer_bytes_per_rank
        assert held == pytest.approx(bytes_a_parameter * numel / 8, rel=1e-3)


def test_8b_lora_fits_a_card_of_24_gb_only_with_recomputing() -> None:
    words = ["training.per_device_train_batch_size=1", "data.max_length=2048"]
    sizes = {
        on: planned("llama3.1_8b_lora", *words, f"training.gradient_checkpointing={on}", memory_gib=23.5)
        for on in ("true", "false")
    }
    assert sizes["true"].fits and not sizes["false"].fits
    assert 16 * GIB < sizes["true"].total_bytes_per_rank < 20 * GIB


def test_a_65b_model_fits_a_card_of_48_gb_under_qlora() -> None:
    """Its authors' claim (arXiv:2305.14314): here with 70 billion parameters."""
    made = planned("llama3.1_70b_qlora", memory_gib=CARDS["a6000"])
    assert made.fits and made.weight_bytes_per_rank > 0.5 * made.parameters


# cards


def test_a_card_by_name_or_by_memory() -> None:
    assert card("H100").memory_bytes == int(79.1 * GIB) and card("h100").bf16
    assert not card("t4").bf16
    assert (card("24GB").memory_bytes, card("22.5GiB").memory_bytes) == (24 * 10**9, int(22.5 * GIB))
    with pytest.raises(RecipeError, match=r"--card h1000 is no card .* a10, a100-40, .* 24GB"):
        card("h1000")


# the strategy


def test_auto_takes_the_least_sharding_that_fits() -> None:
    """As the card shrinks, more is sharded; each time what was taken fits, and what shards less does not."""
    order = ["ddp", "zero1", "zero2", "zero3"]
    asked = ["distributed.strategy=auto"]
    totals = {
        name: planned("llama3.1_8b_full", f"distributed.strategy={name}", gpus=8).total_bytes_per_rank / GIB
        for name in order
    }
    taken = []
    for memory_gib in (200, 90, 79.1, 39.3):
        made = planned("llama3.1_8b_full", *asked, gpus=8, memory_gib=memory_gib)
        taken.append(made.strategy)
        fitting = [name for name in order if totals[name] <= 0.95 * memory_gib]
        assert made.strategy == fitting[0]
        assert made.fits and (made.deepspeed is None) == (made.strategy == "ddp")
        assert f"{made.strategy} " in made.origins["strategy"] and f"has {memory_gib:.1f}" in made.origins["strategy"]
    assert taken == order


def test_auto_says_where_nothing_fits() -> None:
    made = planned("llama3.1_8b_full", "distributed.strategy=auto", gpus=8, memory_gib=20)
    assert made.strategy == "zero3" and made.fits is False
    assert made.origins["strategy"].startswith("auto: none fits, zero3 needs least: ddp needs")


@pytest.mark.parametrize(
    ("gpus", "change", "words", "strategy", "said"),
    [
        (1, {}, [], "none", "one process"),
        (2, {"memory_gib": None}, [], "ddp", "the memory of the device is not known"),
        (2, {"memory_gib": 20, "has_deepspeed": False}, [], "ddp", "is not installed"),
        (2, {"memory_gib": 20}, ["optimizer.name=adafactor"], "ddp", "none fits, ddp needs least: ddp needs"),
    ],
)
def test_auto_without_a_choice(gpus: int, change: dict, words: list[str], strategy: str, said: str) -> None:
    made = planned("llama3.1_8b_full", "distributed.strategy=auto", *words, gpus=gpus, **change)
    assert made.strategy == strategy and said in made.origins["strategy"]


def test_ranks_that_choose_differently_do_not_train(recipe: Path, tmp_path: Path) -> None:
    """Cards of one run may differ: before the first step all ranks end with what differs, and with what to do."""
    ranks, log = Workers(2), tmp_path / "log"
    words = [str(recipe), "distributed.strategy=auto", f"output_dir={tmp_path / 'run'}"]
    for strategies in (["ddp", "zero2"], ["zero3", "zero1"]):
        assert ranks.call(other_ranks.with_choices, words, strategies, log=log) == [89, 89], log.read_text()[-4000:]
        first, second = strategies
        assert re.search(rf"strategy: {first} on \S+ \(rank 0\), {second} on \S+ \(rank 1\)", log.read_text())
    assert "write the value into the recipe" in log.read_text()
    ranks.close()


# what a plan knows


def test_unknown_layers_leave_the_exact_part() -> None:
    facts = dataclasses.replace(facts_of("llama3.1_8b_lora"), num_layers=None)
    read = recipe.load(RECIPES / "llama3.1_8b_lora.yaml", [])
    made = plan.make(read, World(1, 2, device="cuda", bf16=True, memory_bytes=2**40), facts, None, "")
    assert made.weight_bytes_per_rank and made.optimizer_bytes_per_rank
    assert made.total_bytes_per_rank is None and made.fits is None and made.strategy == "ddp"


def test_a_users_configuration_that_is_not_reckoned_with_is_named() -> None:
    word = "distributed.deepspeed_config={zero_optimization: {contiguous_gradients: false}}"
    made = planned("llama3.1_8b_full", word, gpus=8)
    assert "contiguous_gradients" in made.origins["gradient_bytes_per_rank"]
    assert "deepspeed_config" not in planned("llama3.1_8b_full", gpus=8).origins["gradient_bytes_per_rank"]


def test_the_step_of_the_optimizer_may_need_most() -> None:
    """It copies the gradients of what it updates at once: of a billion parameters, or of fewer."""
    words = ["distributed.strategy=zero3", "data.max_length=64", "training.per_device_train_batch_size=1"]
    smaller = "distributed.deepspeed_config={zero_optimization: {sub_group_size: 100000000}}"
    whole, pieces = planned("llama3.1_8b_full", *words), planned("llama3.1_8b_full", *words, smaller)
    assert whole.origins["total_bytes_per_rank"].endswith("while the optimizer steps")
    assert pieces.total_bytes_per_rank < whole.total_bytes_per_rank


def test_eager_attention_and_quantised_products_take_more() -> None:
    plain = planned("llama3.1_8b_lora").activation_bytes_per_rank
    eager = planned("llama3.1_8b_lora", "model.attn_implementation=eager", "data.packing=false")
    assert eager.activation_bytes_per_rank - plain > 2048 * 2048 * 32 * 6
    quantised = planned("llama3.1_8b_qlora").activation_bytes_per_rank
    assert quantised - plain == 2 * 4096 * 14336


# the verb


def lines_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = main(["plan", *words])
    return code, capsys.readouterr().out.splitlines()


def test_plan_says_what_would_fit_and_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Every change that is proposed, given as it is printed, makes the same plan fit."""
    asked = [str(RECIPES / "llama3.1_8b_lora.yaml"), "--card", "rtx4090"]
    change = ["training.gradient_checkpointing=false", "training.per_device_train_batch_size=2"]
    code, said = lines_of(capsys, *asked, *change)
    assert code == 91
    verdict = next(i for i, line in enumerate(said) if line.startswith("does not fit: needs"))
    proposed = [
        re.fullmatch(r"  needs (\S+) GiB(?: and \S+ GiB of each node's memory)? with (.*)  \((.+)\)", line)
        for line in said[verdict + 1 :]
    ]
    assert 1 <= len(proposed) <= 3
    for match in proposed:
        words = match[2].split()
        keys = [word.partition("=")[0] for word in words]
        kept = [word for word in change if word.partition("=")[0] not in keys]
        code, said = lines_of(capsys, *asked, *kept, *words)
        assert code == 0 and said[-1].startswith(f"fits: {match[1]} of 23.5 GiB, by estimate; ")
    changes = [set(match[2].split()) for match in proposed]
    assert not any(a < b for a in changes for b in changes)


def test_plan_says_how_many_nodes_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(RECIPES / "llama3.1_70b_full.yaml"), "--card", "h100", "--world"]
    code, said = lines_of(capsys, *asked, "1x8")
    match = re.fullmatch(r"  needs (\S+) GiB with --world (\S+)  \(4 times the GPUs\)", said[-1])
    assert code == 91 and match[2] == "4x8"
    code, said = lines_of(capsys, *asked, "4x8")
    assert code == 0 and said[-1].startswith(f"fits: {match[1]} of 79.1 GiB")
    assert lines_of(capsys, *asked, "2x8")[0] == 91


def test_plan_says_that_bf16_weights_would_do_where_fp32_copies_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = lines_of(capsys, str(RECIPES / "llama3.1_8b_full.yaml"), "--card", "h100", "--world", "1x2")
    assert any(" GiB with model.dtype=bf16  (weights and activations in bf16, beside" in line for line in said)


def test_plan_says_when_nothing_helps(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = lines_of(capsys, str(RECIPES / "llama3.1_70b_qlora.yaml"), "--card", "1GB")
    assert code == 91
    assert said[-1].startswith("  none of the changes that were tried makes it fit; the least needs ")


def test_bytes_are_shown_in_gib_and_written_whole(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = lines_of(capsys, str(recipe), "--card", "24GB")
    assert code == 0 and said[-1] == "fits: 1.00 of 22.4 GiB, by estimate; 0.00 GiB of each node's memory"
    assert any(re.match(r"  device_memory_bytes +22\.4 GiB \(24,000,000,000\) ", line) for line in said)
    code, said = lines_of(capsys, str(recipe), "--card", "24GB", "--json")
    assert json.loads("\n".join(said))["values"]["device_memory_bytes"]["value"] == 24_000_000_000
    assert main(["plan", str(recipe), "--card", "big"]) == 89


def test_a_run_that_may_not_fit_is_warned_not_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(recipe), "training.max_steps=3", f"output_dir={tmp_path / 'run'}"]
    assert other_ranks.with_memory(words, 1000) == 0
    assert "WARNING: does not fit: needs 0.00 of 0.00 GiB" in capsys.readouterr().out
    assert tiny.losses(tmp_path / "run")
