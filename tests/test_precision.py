"""What a run computes in: what a device cannot do is refused, fp16 is scaled, and what is trained keeps its small updates."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

import launcher.recipe
from launcher import engine, log, plan, precision
from launcher.engine import Engine
from launcher.errors import NonFiniteError, RecipeError, RecipeErrors
from launcher.loss_scale import LossScale, ZeroLossScale
from launcher.losses import Loss
from launcher.plan import ModelFacts, Plan
from launcher.world import World

FACTS = ModelFacts("Tiny", 1000, 100, 64, False, "fused", "auto", "here")
CPU, AMX, OLD_GPU, GPU = World(), World(bf16=True), World(device="cuda"), World(device="cuda", bf16=True)
FULL = ["method=full", "adapter=null"]


def planned(path: Path, *words: str, world: World = CPU) -> Plan:
    return plan.make(launcher.recipe.load(path, words), world, FACTS, None, "no data here")


# what the plan says


@pytest.mark.parametrize(
    ("precision", "world", "says"),
    [
        ("tf32", CPU, "TF32 is a way in which NVIDIA GPUs multiply, and there is no GPU"),
        ("tf32", OLD_GPU, "this GPU has no tf32, which began with Ampere; use auto or fp16"),
        ("bf16", OLD_GPU, "this GPU has no bf16"),
    ],
)
def test_what_a_device_only_pretends_to_do_is_refused(recipe: Path, precision: str, world: World, says: str) -> None:
    with pytest.raises(RecipeError, match=f"^command line.*{says}"):
        planned(recipe, f"training.precision={precision}", world=world)


def test_what_a_precision_rules_out_is_refused(recipe: Path) -> None:
    """Also where auto becomes fp16, which only the plan knows."""
    words = ["distributed.strategy=zero3", "distributed.zero_quantized_weights=true"]
    with pytest.raises(RecipeErrors, match="command line.*zero_quantized_weights: .*computed under autocast"):
        planned(recipe, *words, "training.precision=fp16")
    with pytest.raises(RecipeError, match="zero_quantized_weights: .*computed under autocast.*fp32"):
        planned(recipe, *words, world=OLD_GPU)
    assert planned(recipe, words[0], world=OLD_GPU).precision == "fp16"


def test_auto_does_not_contradict_the_weights(recipe: Path) -> None:
    for dtype in ("bf16", "fp16"):
        made = planned(recipe, f"model.dtype={dtype}")
        assert (made.precision, made.model_dtype) == (dtype, dtype)
        assert "as model.dtype" in made.origins["precision"]
    assert planned(recipe, "model.dtype=fp32").precision == "fp32"


@pytest.mark.parametrize(
    ("precision", "world", "slow"),
    [("bf16", CPU, "slower"), ("bf16", AMX, ""), ("fp16", CPU, "try out"), ("fp16", GPU, ""), ("bf16", GPU, "")],
)
def test_half_precision_on_a_cpu_says_that_it_is_slow(recipe: Path, precision: str, world: World, slow: str) -> None:
    origin = planned(recipe, f"training.precision={precision}", world=world).origins["precision"]
    assert origin.startswith("command line")
    assert slow in origin and bool(slow) == (";" in origin)


def test_weights_that_are_trained_in_half_precision(recipe: Path) -> None:
    """bf16 with a word about it; what an adapter trains is fp32, modules that PEFT copies too."""
    lost, saved = "update below 2^-8 of its weight is rounded away", "adapter.modules_to_save=[lm_head]"
    assert lost in planned(recipe, *FULL, "model.dtype=bf16").origins["model_dtype"]
    sharded = planned(recipe, *FULL, "model.dtype=bf16", "distributed.strategy=zero2").origins["model_dtype"]
    assert lost not in sharded and sharded.endswith("the weights are trained in bf16, through fp32 copies")
    for words in ([], [saved]):
        assert lost not in planned(recipe, *words, "training.precision=bf16").origins["model_dtype"]
    assert planned(recipe, *FULL, "training.precision=bf16").model_dtype == "fp32"
    assert planned(recipe, saved, "training.precision=fp16").model_dtype == "fp16"


def test_bf16_that_a_gpu_emulates_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * 2**30))
    assert engine.world().device == "cuda"
    assert not engine.world().bf16


# what the engine does


class Rows(nn.Module):
    """A linear layer in the precision of the engine; the loss is `factor` times the sum of its outputs."""

    def __init__(self, factor: float, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 8, dtype=dtype))
        self.factor = factor

    def counts(self, batch: dict[str, torch.Tensor]) -> dict[str, int]:
        return {"rows": len(batch["inputs"])}

    def forward(self, inputs: torch.Tensor, counts: dict[str, int]) -> Loss:
        outputs = nn.functional.linear(inputs.to(self.weight.dtype), self.weight)
        return Loss({"rows": (self.factor * outputs.float().sum(), counts["rows"], 1.0)}, {})


@pytest.fixture
def start(recipe: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines of a precision; torch's global settings are put back."""
    made: list[Engine] = []

    def make(precision: str, *words: str) -> Engine:
        world = CPU if precision != "tf32" else GPU
        planned_for = planned(recipe, *FULL, f"training.precision={precision}", *words, world=world)
        made.append(Engine(planned_for))
        return made[-1]

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield make
    for engine_made in made:
        engine_made.close()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


INPUTS = {"inputs": torch.linspace(-1, 2, 24).view(3, 8)}


def step(running: Engine, objective: Rows, optimizer: str = "sgd", learning_rate: float = 1.0) -> float:
    """One optimizer step on INPUTS; the engine is prepared the first time."""
    if not hasattr(running, "objective"):
        kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        running.prepare(objective, kinds[optimizer](objective.parameters(), lr=learning_rate, fused=True))
    running.forward_backward(INPUTS, {"rows": 3.0}, last=True)
    return running.step()


def gradient(factor: float) -> torch.Tensor:
    """Of the mean over the three rows."""
    return (factor / 3 * INPUTS["inputs"].sum(0)).expand(4, 8)


@pytest.mark.parametrize(("precision", "matmul", "tf32"), [("fp32", "highest", False), ("tf32", "high", True)])
def test_fp32_is_fp32_in_products_and_convolutions(start, precision: str, matmul: str, tf32: bool) -> None:
    start(precision)
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.allow_tf32 is tf32


def test_fp16_keeps_gradients_that_it_could_not_hold_by_itself(start) -> None:
    """2e-8 is less than half of fp16's smallest number."""
    objective = Rows(factor=2e-8)
    with torch.autocast("cpu", torch.float16):
        objective(**INPUTS, counts={"rows": 3}).terms["rows"][0].backward()
    assert not objective.weight.grad.any()
    objective.zero_grad()
    norm = step(start("fp16", "training.max_grad_norm=null"), objective)
    assert norm == pytest.approx(float(gradient(2e-8).norm()), rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clipping_is_of_the_true_gradient(start, precision: str) -> None:
    objective = Rows(factor=0.5)
    norm = step(start(precision, "training.max_grad_norm=0.125"), objective)
    assert norm == pytest.approx(float(gradient(0.5).norm()), rel=5e-3)
    assert float((objective.weight - 1).norm()) == pytest.approx(0.125, rel=5e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_overflow_changes_nothing_and_halves_the_scale(start, optimizer: str, monkeypatch, capsys) -> None:
    """Fused optimizers skip inside of their own kernel, where Accelerate does not see it."""
    monkeypatch.setattr(precision, "INITIAL_SCALE_POWER", 17)  # the largest gradient, 0.96, fits into fp16 at 2^16
    log.set_up(0)
    running, objective = start("fp16", "training.max_grad_norm=null"), Rows(factor=1.0)
    assert not math.isfinite(step(running, objective, optimizer, learning_rate=0.5))
    assert torch.equal(objective.weight, torch.ones(4, 8))
    assert not any(bool(value.any()) for state in running.optimizer.state.values() for value in state.values())
    assert running.loss_scale.value == 2.0**16
    assert "this step changes no weight; loss scale 65536 from now on" in capsys.readouterr().out
    assert step(running, objective, optimizer, learning_rate=0.5) == pytest.approx(float(gradient(1).norm()), rel=2e-3)
    assert not torch.equal(objective.weight, torch.ones(4, 8))
    assert running.loss_scale.value == 2.0**16


def test_gradients_that_overflow_at_every_scale_are_an_error(start) -> None:
    running, objective = start("fp16"), Rows(factor=1e9)
    for _ in range(16):
        assert not math.isfinite(step(running, objective))
    with pytest.raises(NonFiniteError, match="not finite in fp16, even at a loss scale of 1;"):
        step(running, objective)
    assert torch.equal(objective.weight, torch.ones(4, 8))


def test_without_a_scale_the_first_bad_gradient_is_an_error(start) -> None:
    running, objective = start("bf16"), Rows(factor=math.inf)
    with pytest.raises(NonFiniteError, match="gradient norm is"):
        step(running, objective)
    assert torch.equal(objective.weight, torch.ones(4, 8))


def test_the_scale_of_a_rank_holds_its_share_of_the_world() -> None:
    """So that it is saved and logged as what the loss of the whole batch is multiplied with."""
    one, four = LossScale(torch.device("cpu"), 1), LossScale(torch.device("cpu"), 4)
    assert (one.value, four.value) == (2.0**16, 2.0**16)
    assert four.scaler.get_scale() == 2.0**14
    one.load({"scale": 8.0, "good_steps": 5})
    four.load(one.state())
    assert (one.scaler.get_scale(), four.scaler.get_scale()) == (8.0, 2.0)
    assert four.state() == one.state() == {"scale": 8.0, "good_steps": 5}


def test_zero_s_scale_moves_as_pytorchs_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same steps, from any state on, in a larger world."""
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    torchs, used = LossScale(torch.device("cpu"), 1), []
    sharded = ZeroLossScale(used.append, 4)
    assert used == [2.0**14]
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight])
    torchs.scaler.scale(weight)
    for norm in (1, 1, 1, math.inf, math.inf, 1, 1, 1, 1, math.inf, 1, math.nan, 1, 1, 1, 1, 1, 1, 1):
        weight.grad = torch.full((1,), float(norm))
        torchs.scaler.step(optimizer)
        torchs.scaler.update()
        for scale in (torchs, sharded):
            scale.after_step(norm)
        assert sharded.state() == torchs.state()
        assert used[-1] * 4 == sharded.of_rank * 4 == torchs.value


@pytest.mark.parametrize(("dtype", "kept"), [("auto", True), ("bf16", False)])
def test_small_updates_of_fp32_weights_are_kept_under_bf16(start, dtype: str, kept: bool) -> None:
    """2^-9 of a weight of one: in bf16 it is what the plan says that it is, lost."""
    running = start("bf16", "training.max_grad_norm=null", f"model.dtype={dtype}")
    weights = {"fp32": torch.float32, "bf16": torch.bfloat16}[running.plan.model_dtype]
    objective = Rows(3.0, weights)
    step(running, objective, learning_rate=2**-9 / float(gradient(3.0).abs().max()))
    assert objective.weight.dtype == weights and objective.weight.grad is None
    assert (not torch.equal(objective.weight, torch.ones_like(objective.weight))) is kept


# whole runs


@pytest.mark.parametrize(("strategy", "method", "power"), [("none", [], 21), ("zero2", [], 21), ("zero3", FULL, 20)])
def test_a_run_in_fp16_skips_goes_on_and_resumes(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    strategy: str,
    method: list[str],
    power: int,
) -> None:
    """The scale is too high at first and grows every other step, so that overflows come again and again."""
    monkeypatch.setattr(precision, "INITIAL_SCALE_POWER", power)
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 2)
    words = ["training.precision=fp16", "training.max_steps=13", "checkpoint.save_steps=3", "evaluation.eval_steps=1"]
    words += [
        *method,
        f"distributed.strategy={strategy}",
        "evaluation.metrics=[loss]",
        "logging.trackers=[jsonl,console]",
    ]
    whole = tmp_path / "whole"
    assert tiny.train(recipe, *words, f"output_dir={whole}") == 0
    said = capsys.readouterr().out
    assert "step skipped  " in said and "left out" not in said
    skipped, scales = tiny.losses(whole, "train/skipped_steps"), tiny.losses(whole, "train/loss_scale")
    norms, held_out = tiny.losses(whole, "train/grad_norm"), tiny.losses(whole, "eval/loss")
    for now in range(1, 14):
        was_skipped = skipped[now] > skipped.get(now - 1, 0)
        assert was_skipped == (now not in norms) == (held_out[now] == held_out[now - 1])
        assert was_skipped == (scales[now] < scales.get(now - 1, 2.0**power))
    assert len(norms) >= 5 and skipped[13] >= 3
    assert scales[8] == scales[9] == scales[10] / 2, "step 9 is to be in the middle of a growth"
    state = load_file(whole / "checkpoints" / "step-00000013" / "optimizer" / "optimizer.safetensors")
    assert {float(value) for name, value in state.items() if name.endswith("//step")} == {13 - skipped[13]}

    resumed = shutil.copytree(whole, tmp_path / "resumed")
    (resumed / "metrics.jsonl").unlink()
    assert tiny.train(recipe, *words, "--resume", str(resumed / "checkpoints" / "step-00000009")) == 0
    for metric in ("train/loss", "train/grad_norm", "train/loss_scale", "train/skipped_steps", "eval/loss"):
        after = {now: value for now, value in tiny.losses(whole, metric).items() if now > 9}
        assert tiny.losses(resumed, metric) == after and after


def test_a_run_says_that_it_goes_on_in_another_precision(recipe: Path, tmp_path: Path, capsys) -> None:
    words = ["evaluation.metrics=[loss]", "scheduler.warmup_steps=0", f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(recipe, *words, "training.max_steps=1") == 0
    assert tiny.train(recipe, *words, "training.max_steps=2", "training.precision=bf16", "--resume", "auto") == 0
    assert "computed in fp32 until now and goes on in bf16" in capsys.readouterr().out
