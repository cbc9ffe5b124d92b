"""verify-math finds a step right that is right, and names what computes it wrongly. Mistakes are in `broken_math`."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import broken_math
import pytest
import torch
from workers import Workers

from launcher import recipe as recipes
from launcher import spawn, verify_math
from launcher.__main__ import main
from launcher.errors import RecipeError
from launcher.verify_math import Job, conditions, measure, reference, variants
from launcher.verify_math.compare import Allowance, Distance, Reference
from launcher.verify_math.measure import Setting

Check = Callable[..., tuple[int, dict[str, dict], str]]
EVERYTHING = {"the recipe", "packed", "fused loss", "activation checkpointing"}
FULL = ("method=full", "adapter=null")


@pytest.fixture(scope="module")
def ranks() -> Iterator[dict[int, Workers]]:
    made = {world: Workers(world) for world in (1, 2)}
    yield made
    for workers in made.values():
        workers.close()


@pytest.fixture
def check(recipe: Path, tmp_path: Path, ranks, monkeypatch, capsys) -> Check:
    """`launcher verify-math` with mistakes: exit code, outcomes by variant, what it printed. Its processes are ranks that stay."""

    def run(*words: str, mistakes: Sequence[str] = ()) -> tuple[int, dict[str, dict], str]:
        def start(processes: int, arguments: Sequence[str]) -> int:
            if processes > 1 and "zero3_breaks_on_rank_one" in mistakes:  # ranks that stay would wait for each other
                return broken_math.start(processes, mistakes, list(arguments), tmp_path / "log")
            codes = ranks[processes].call(broken_math.launch, mistakes, list(arguments), log=tmp_path / "log")
            return next((code for code in codes if code), 0)

        monkeypatch.setattr(spawn, "run", start)
        code = main(["verify-math", str(recipe), *words, "--json", str(tmp_path / "found.json")])
        assert (tmp_path / "found.json").exists(), (tmp_path / "log").read_text()[-3000:]
        found = json.loads((tmp_path / "found.json").read_text())["variants"]
        said = capsys.readouterr()
        return code, {outcome["variant"]: outcome for outcome in found}, said.out + said.err

    return run


def named(outcomes: dict[str, dict], verdict: str) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome["verdict"] == verdict}


def from_scratch(recipe: Path, model_type: str) -> list[str]:
    sizes = "hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, vocab_size: 32"
    init = f"model.init={{model_type: {model_type}, {sizes}}}"
    return [*FULL, "model.name_or_path=null", init, f"tokenizer.name_or_path={recipe.parent / 'model'}"]


# --- the whole of it -------------------------------------------------------------------------------------------------


def test_a_sound_recipe_is_found_sound(check: Check, recipe: Path) -> None:
    """With random weights, which every strategy has to draw alike."""
    code, outcomes, said = check("data.packing=true", *from_scratch(recipe, "llama"))
    shared = {
        "ddp",
        "ddp, rows in one process only",
        *(f"{s}, accumulating" for s in ("ddp", "zero1", "zero2", "zero3")),
    }
    assert code == 0, said
    assert (
        named(outcomes, "ok") == outcomes.keys() == shared | EVERYTHING | {f"{n} micro-batches" for n in (2, 3, 4, 8)}
    )
    for outcome in outcomes.values():
        assert outcome["gradient_norm"] > 0 and outcome["gradient_error"] < 3e-6 and outcome["loss_error"] < 3e-6
    for strategy in ("ddp", "zero1", "zero2", "zero3"):
        told = outcomes[f"{strategy}, accumulating"]
        assert told["cut"] == [2, 2, 2] and told["strategy"] == strategy
    combined = outcomes["the recipe"]
    assert combined["packed"] and combined["fused loss"] and combined["cut"][1] > 1
    assert "14 give the same loss and gradients, to rounding" in said


def test_the_same_from_a_shell(recipe: Path) -> None:
    words = ["verify-math", str(recipe), "--nproc", "1", "--rows", "2"]
    done = subprocess.run([sys.executable, "-m", "launcher", *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "5 give the same loss and gradients, to rounding"
    assert sum(line.endswith("  ok") for line in lines) == 5 and "packed: ok" in done.stderr, (
        "progress is told elsewhere"
    )


def test_what_one_process_does_wrongly_is_named(check: Check) -> None:
    mistakes = ("packing_leaks", "fused_mask_is_off_by_one", "checkpointing_cuts_the_graph")
    code, outcomes, said = check("--nproc", "1", "--rows", "4", mistakes=mistakes)
    assert code == 93 and named(outcomes, "WRONG") == EVERYTHING
    assert named(outcomes, "ok") == {"2 micro-batches", "4 micro-batches"}
    assert "14 matrices that start as zeros" in said
    assert "these do not compute the same step: packed, fused loss, activation checkpointing, the recipe" in said
    assert outcomes["packed"]["gradient_error"] > 1e-3


@pytest.mark.parametrize("mistake", ["last_micro_batch_is_dropped", "mean_of_micro_batches"])
def test_what_goes_wrong_between_micro_batches_is_named(check: Check, mistake: str) -> None:
    code, outcomes, _ = check(
        "--nproc", "1", "--rows", "4", "training.per_device_train_batch_size=2", mistakes=(mistake,)
    )
    assert code == 93
    assert named(outcomes, "WRONG") == {"2 micro-batches", "4 micro-batches", "the recipe"}
    assert named(outcomes, "ok") == EVERYTHING - {"the recipe"}


def test_what_goes_wrong_between_ranks_is_named(check: Check) -> None:
    code, outcomes, _ = check("--rows", "4", mistakes=("each_rank_counts_alone",))
    alone = {name for name, outcome in outcomes.items() if outcome["cut"][0] == 1}
    assert code == 93 and named(outcomes, "ok") == alone and named(outcomes, "WRONG") == outcomes.keys() - alone


def test_strategies_are_told_apart_and_a_broken_one_does_not_stop_the_others(check: Check) -> None:
    mistakes = ("ddp_never_exchanges", "zero2_keeps_the_last_micro_batch_only", "zero3_breaks_on_rank_one")
    words = ("--rows", "4", "training.global_batch_size=3", "distributed.strategy=zero1")
    code, outcomes, said = check(*words, mistakes=mistakes)
    assert code == 93
    assert named(outcomes, "WRONG") == {
        "ddp", "ddp, rows in one process only", "ddp, accumulating", "zero2, accumulating",
    }  # fmt: skip
    assert named(outcomes, "failed") == {"zero3, accumulating"}
    assert outcomes["zero3, accumulating"]["reason"] == "ValueError: rank one has lost its nerve"
    assert outcomes["zero1, accumulating"]["verdict"] == "ok"
    assert "world sizes that fit: 1, 3" in outcomes["the recipe"]["reason"] and "refused: the recipe" in said


# --- what it is careful about ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 1e-3, 2e-2), ("fp16", 1e-4, 3e-3)])
def test_in_the_recipes_own_precision_and_with_dropout(check: Check, precision: str, least: float, most: float) -> None:
    """A 16-bit gradient is seen as such, scaled back; dropout would be far outside."""
    words = ("--as-configured", "--nproc", "1", "--rows", "4", f"training.precision={precision}")
    code, outcomes, said = check(*words, "adapter.lora_dropout=0.3")
    assert code == 0 and named(outcomes, "ok") == outcomes.keys() and "dropout is switched off" in said
    for outcome in outcomes.values():
        assert outcome["precision"] == precision and least < outcome["gradient_error"] < most


def test_what_a_recipe_cannot_do_is_refused_and_no_failure(check: Check, recipe: Path) -> None:
    code, outcomes, said = check(*from_scratch(recipe, "opt"), "--nproc", "1", "--rows", "2", "--all")
    assert code == 0 and named(outcomes, "refused") == {name for name in outcomes if "packed" in name}
    assert "lets packed examples see each other" in outcomes["packed"]["reason"]
    assert outcomes["fused loss, activation checkpointing"]["verdict"] == "ok" and "refused: packed" in said


def test_it_starts_its_processes_itself(recipe: Path, monkeypatch, capsys) -> None:
    for words in (["--rows", "1"], ["--nproc", "0"]):
        assert main(["verify-math", str(recipe), *words]) == 89
    monkeypatch.setenv("RANK", "0")
    assert main(["verify-math", str(recipe)]) == 89
    assert "run it without torchrun" in capsys.readouterr().err


def test_processes_that_die_without_a_word_are_a_failure_of_what_they_were_at(tmp_path: Path, monkeypatch) -> None:
    """Started again for the rest; never for ever."""
    job, names, starts = Job("x.yaml", (), 2, 4, False, False), ["a", "b", "c"], []

    def die_at_b(processes: int, words: Sequence[str]) -> int:
        starts.append(processes)
        for rank in range(processes):
            with (tmp_path / f"outcomes-{processes}-{rank}.jsonl").open("a") as lines:
                done = {o["variant"] for o in verify_math.outcomes(tmp_path, processes)}
                for name in [
                    name for name in ("a", "c") if len(starts) == 1 and name == "a" or "b" in done and name == "c"
                ]:
                    print(json.dumps({"variant": name, "verdict": "ok", "loss": 1.0}), file=lines)
        return 137

    monkeypatch.setattr(spawn, "run", die_at_b)
    verify_math._complete(job, 2, tmp_path, names)
    found = [verify_math._outcome(tmp_path, variants.Variant(name, 2)) for name in names]
    assert [outcome["verdict"] for outcome in found] == ["ok", "failed", "ok"] and starts == [2, 2, 2]
    assert found[1]["reason"] == "exit code 137"


# --- the yardstick ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.of(Job(str(recipe), FULL, 1, 4, False, False), tmp_path_factory.mktemp("setting"))


def test_what_rounding_does_is_what_fp64_says_it_does(setting: Setting) -> None:
    """The floor comes from fp32 alone, because fp64 is slow on a GPU and twice as large; here it is held against it."""
    plain = setting.prepared(variants.reference(setting.recipe({})), in_fp32=True)
    reference.take(setting)
    known, allowance, _ = reference.read(setting.folder)
    with measure.set_up(plain, setting.folder) as run:
        run.objective.double()
        loss = measure.backward(run, measure.first_batch(run))
        exact = {name: p.grad for name, p in run.objective.named_parameters()}
    truth = known.distance(loss, exact.items())
    assert 1 < allowance.floor.gradient / truth.gradient < 4
    for name, off in truth.by_parameter.items():
        assert off < 3 * allowance.floor.by_parameter[name], name


def test_chance_that_is_no_dropout_is_refused(setting: Setting) -> None:
    plain = setting.prepared(variants.reference(setting.recipe({})), in_fp32=True)
    with measure.set_up(plain, setting.folder) as run:
        batch = measure.first_batch(run)
        assert conditions.without_chance(run, batch) is False
        run.model.get_input_embeddings().register_forward_hook(lambda m, i, out: out + torch.randn_like(out) / 100)
        with pytest.raises(RecipeError, match="random numbers that are not dropout"):
            conditions.without_chance(run, batch)


def test_every_weight_is_moved_to_its_neighbour() -> None:
    layer = torch.nn.Linear(200, 50)
    before = layer.weight.detach().clone()
    conditions.nudge(layer)
    up, down = torch.nextafter(before, torch.tensor(torch.inf)), torch.nextafter(before, torch.tensor(-torch.inf))
    assert ((layer.weight == up) | (layer.weight == down)).all() and 0.4 < (layer.weight == up).float().mean() < 0.6


def test_a_gradient_is_wrong_if_a_small_part_of_it_is() -> None:
    tensors = {"large": torch.full((100,), 3.0), "small": torch.full((4,), 1e-5), "none": torch.zeros(5)}
    known = Reference.of(2.0, {name: (lambda value=value: value) for name, value in tensors.items()})
    allowance = Allowance(5.0, Distance(0.0, 1e-7, {"large": 1e-7, "small": 2e-7, "none": 1e-9}, 30.0))

    def verdict(loss: float = 2.0, **changes: torch.Tensor | None) -> dict:
        given = {name: value for name, value in (tensors | changes).items() if value is not None}
        return allowance.judge(known.distance(loss, given.items()))

    assert verdict()["verdict"] == verdict(large=tensors["large"] * (1 + 4e-7), loss=2 + 8e-7)["verdict"] == "ok"
    assert verdict(none=torch.full((5,), 1e-13))["verdict"] == "ok", "below what rounding leaves of the whole"
    for wrong in ({"small": tensors["small"] * (1 + 2e-6)}, {"small": None}, {"none": torch.full((5,), 1e-5)}):
        assert verdict(**wrong)["verdict"] == "WRONG" and verdict(**wrong)["worst_parameter"] == next(iter(wrong))
    assert verdict(large=tensors["large"] * (1 + 1e-6))["gradient_error"] == pytest.approx(1e-6, rel=0.1)
    assert verdict(loss=2 + 2e-6)["verdict"] == verdict(loss=math.nan)["verdict"] == "WRONG"
    assert verdict(small=torch.full((4,), torch.nan))["verdict"] == "WRONG"
    assert known.distance(2.0, [(name, None) for name in tensors]) is None, "another rank has them"


def test_cuts_are_even_or_leave_a_shorter_last_one() -> None:
    assert [variants.cuts(rows) for rows in (2, 3, 4, 5, 8, 9)] == [[2], [3], [2, 4], [3, 5], [2, 3, 4, 8], [3, 9]]


def test_another_start_is_named_but_not_its_rounding() -> None:
    known = {"a": (0.3, 1.0), "b": (-0.2, 2.0)}
    assert conditions.starts_elsewhere({"a": (0.302, 1.0), "b": (-0.204, 2.0)}, known) is None
    assert conditions.starts_elsewhere({"a": (0.3, 1.0), "b": (0.2, 2.0)}, known) == "b"


def test_r_drop_is_not_compared_with_a_fused_loss(recipe: Path) -> None:
    """There is none of it."""
    fused = [
        any("fused" in one.name for one in variants.listed(recipes.load(recipe, words), 4, 1, pairs=True))
        for words in ([], ["loss.r_drop_alpha=1.0"])
    ]
    assert fused == [True, False]
