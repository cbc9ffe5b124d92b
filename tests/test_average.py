"""The moving average of the weights: beside a slow one made of the weights of every step, and never in the way of the training."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

STEPS, DECAY = 6, 0.4
WORDS = [
    "method=full",
    "adapter=null",
    "evaluation.metrics=[loss]",
    "evaluation.eval_steps=1",
    "checkpoint.save_steps=1",
]
WORDS += [f"checkpoint.save_total_limit={STEPS + 1}"]
EMA = f"regularization.ema={DECAY}"


def saved(run: Path, step: int, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / name / f"{name}.safetensors")


def raw(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights that are trained on with."""
    found = saved(run, step, "optimizer")
    return {
        name.removesuffix("//weight").removeprefix("model."): v
        for name, v in found.items()
        if name.endswith("//weight")
    }


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One run without and one with an average."""
    folder = tmp_path_factory.mktemp("average")
    for name, more in (("plain", []), ("averaged", [EMA])):
        assert tiny.train(recipe, *WORDS, *more, f"output_dir={folder / name}") == 0
    return folder / "plain", folder / "averaged"


def test_the_training_does_not_notice(runs: tuple[Path, Path]) -> None:
    plain, averaged = runs
    assert tiny.losses(averaged) == tiny.losses(plain)
    for name, weight in raw(averaged, STEPS).items():
        assert torch.equal(weight, saved(plain, STEPS)[name]), name


def test_every_checkpoint_holds_the_average_of_all_steps_before(runs: tuple[Path, Path], recipe: Path) -> None:
    """Each decay by its formula, in fp64; the first steps count less of the past."""
    plain, averaged = runs
    average = {name: value.double() for name, value in load_file(recipe.parent / "model" / "model.safetensors").items()}
    assert min(DECAY, 2 / 11) < DECAY < 7 / 16, "both branches of the formula are met"
    for step in range(1, STEPS + 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * saved(plain, step)[name] for name, value in average.items()}
        for name, value in saved(averaged, step).items():
            assert (value - average[name]).abs().max() < 1e-6, (step, name)
    far = max(float((average[name] - value).abs().max()) for name, value in saved(plain, STEPS).items())
    assert far > 1e-4


def test_what_is_evaluated_and_exported_is_the_average(runs: tuple[Path, Path]) -> None:
    plain, averaged = runs
    last = saved(averaged, STEPS)
    exported = load_file(averaged / "export" / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in last.items())
    before, after = tiny.losses(plain, "eval/loss"), tiny.losses(averaged, "eval/loss")
    assert before[0] == after[0]
    assert all(before[step] != after[step] for step in range(1, STEPS + 1))


def test_a_resumed_run_goes_on_from_the_weights_and_keeps_the_average(
    runs: tuple[Path, Path], recipe: Path, tmp_path: Path
) -> None:
    whole = runs[1]
    run = shutil.copytree(whole, tmp_path / "run")
    back = run / "checkpoints" / "step-00000003"
    assert tiny.train(recipe, *WORDS, EMA, f"output_dir={run}", "--resume", str(back)) == 0
    for name in ("model", "optimizer"):
        again, once = saved(run, STEPS, name), saved(whole, STEPS, name)
        assert all(torch.equal(again[key], value) for key, value in once.items())
    assert tiny.losses(run) == tiny.losses(whole)


def test_a_run_is_not_resumed_without_its_average(
    runs: tuple[Path, Path], recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    assert tiny.train(recipe, *WORDS, f"output_dir={runs[1]}", "--resume", "auto") == 89
    assert "regularization.ema was 0.4 when this run was saved and is None now" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_have_the_same_average(
    recipe: Path, runs: tuple[Path, Path], tmp_path: Path, strategy: str
) -> None:
    """LoRA's parts are whole under zero2, too; a resume in the middle belongs to it."""
    words = ["train", str(recipe), *WORDS, EMA, f"distributed.strategy={strategy}", f"output_dir={tmp_path / 'two'}"]
    assert tiny.Ranks(2, words, log := tmp_path / "two.log").wait() == [0, 0], log.read_text()
    shutil.rmtree(tmp_path / "two" / "export")
    back = str(tmp_path / "two" / "checkpoints" / "step-00000004")
    assert tiny.Ranks(2, [*words, "--resume", back], log).wait() == [0, 0], log.read_text()
    one, two = saved(runs[1], STEPS), saved(tmp_path / "two", STEPS)
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-5


def test_a_stage_begins_from_the_average_of_the_one_before(recipe: Path, tmp_path: Path) -> None:
    no_move = "optimizer: {learning_rate: 1.0e-12, weight_decay: 0.0}"
    stages = f"stages=[{{training: {{max_steps: 2}}}}, {{training: {{max_steps: 2}}, {no_move}}}]"
    words = [*WORDS, "scheduler={name: constant, warmup_steps: 0}", EMA, stages]
    assert tiny.train(recipe, *words, f"output_dir={tmp_path / 'run'}") == 0
    at_boundary = saved(tmp_path / "run", 2)
    for end in (raw(tmp_path / "run", 4), saved(tmp_path / "run", 4)):
        assert max(float((end[name] - value).abs().max()) for name, value in at_boundary.items() if name in end) < 1e-6


def test_weights_of_16_bits_have_an_average_of_32() -> None:
    from launcher.engine.average import Average

    layer = torch.nn.Linear(3, 3, bias=False).to(torch.bfloat16)
    average = Average(layer, 0.9)
    with torch.no_grad():
        layer.weight.add_(0.01)
    before = layer.weight.clone()
    average.update(1000)
    states = {name: {} for name, _, _ in average.states()}
    for name, key, value in average.states():
        states[name][key] = value
    with average.in_place():
        assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.weight, before)

    other = Average(layer, 0.9)
    rest = other.load({"weight": states["weight"] | {"exp_avg": before}}, lambda p, read: p.data.copy_(read()))
    assert rest == {"weight": {"exp_avg": before}}
    (kept,) = [value for _, key, value in other.states() if key == "average"]
    assert kept.dtype == torch.float32
    assert torch.equal(kept, states["weight"]["average"])
    assert not torch.equal(kept, kept.bfloat16().float())


def test_the_plan_counts_four_bytes_a_trained_weight(runs: tuple[Path, Path]) -> None:
    plans = [json.loads((run / "plan.json").read_text())["values"] for run in runs]
    held = [plan["optimizer_bytes_per_rank"]["value"] for plan in plans]
    assert held[1] - held[0] == 4 * plans[0]["trainable_parameters"]["value"]
