"""Every optimizer against its formula in fp64, and what the rest of the launcher relies on: groups, state, size."""

import copy
import math
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch
from adapted import Alone
from torch import Tensor

from launcher import adam, parts, saved_state
from launcher.errors import EnvironmentProblem, RecipeErrors
from launcher.recipe import load

LR, DECAY = 0.01, 0.1
ON_CPU = [n for n in parts.names("optimizers") if not getattr(parts.load("optimizers", n), "NEEDS_GPU", False)]
SHAPES = {"matrix": (80, 64), "small": (6, 10), "tall": (30, 4), "vector": (70,), "table": (50, 8)}


class Objective(torch.nn.Module):
    """One parameter of each shape; `table` plays the embedding."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(0)
        for name, shape in SHAPES.items():
            self.register_parameter(name, torch.nn.Parameter(0.1 * torch.randn(shape).to(dtype)))


def options(name: str, **more):
    return parts.load("optimizers", name).Config(name=name, learning_rate=LR, weight_decay=DECAY, **more)


def optimizer_of(name: str, objective: Objective, **more) -> torch.optim.Optimizer:
    config, named = options(name, **more), dict(objective.named_parameters())
    hidden = [named[n] for n in ("matrix", "small", "tall")]
    groups = [
        {"params": hidden, "weight_decay": config.weight_decay, "hidden": True, "lr_scale": 1.0},
        {"params": [named["table"]], "weight_decay": config.weight_decay, "hidden": False, "lr_scale": 1.0},
        {"params": [named["vector"]], "weight_decay": 0.0, "hidden": False, "lr_scale": 1.0},
    ]
    return parts.load("optimizers", name).build(groups, config)


def set_gradients(objective: Objective, step: int, size: float = 1.0) -> None:
    torch.manual_seed(100 + step)
    for parameter in objective.parameters():
        parameter.grad = (size * torch.randn(parameter.shape)).to(parameter.dtype)


def train(objective: Objective, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_gradients(objective, step)
        optimizer.step()


# formulas: (weight, gradients of all steps, weight decay, is it a hidden matrix, options) -> weight; each computes in the
# precision of what it is given


def nothing(moment: Tensor, signed: bool) -> Tensor:
    return moment


def adamw(w, gradients, decay, hidden, betas=(0.9, 0.999), eps=1e-8, quantise=nothing, **_):
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        step = m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        w = w - LR * decay * w - LR * step
        m, v = quantise(m, True), quantise(v, False)
    return w


def adam_(w, gradients, decay, hidden, betas=(0.9, 0.999), eps=1e-8):
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        g = g + decay * w
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        w = w - LR * m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return w


def sgd(w, gradients, decay, hidden, momentum=0.0, nesterov=False):
    velocity = torch.zeros_like(w)
    for g in gradients:
        g = g + decay * w
        velocity = momentum * velocity + g
        w = w - LR * (g + momentum * velocity if nesterov else velocity)
    return w


def lion(w, gradients, decay, hidden, betas=(0.9, 0.99)):
    m = torch.zeros_like(w)
    for g in gradients:
        w = w - LR * decay * w - LR * (betas[0] * m + (1 - betas[0]) * g).sign()
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def adafactor(w, gradients, decay, hidden, beta1=None, decay_rate=-0.8, clip_threshold=1.0, scale_parameter=False):
    """Algorithms 4 and 5 of the paper with a learning rate in place of the relative step."""
    rows, columns, v, m = 0.0, 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        beta, squared = 1 - t**decay_rate, g * g + 1e-30
        rate = LR * (max(1e-3, float(w.square().mean().sqrt())) if scale_parameter else 1.0)
        if w.ndim == 2:
            rows = beta * rows + (1 - beta) * squared.mean(1)
            columns = beta * columns + (1 - beta) * squared.mean(0)
            v = torch.outer(rows, columns) / rows.mean()
        else:
            v = beta * v + (1 - beta) * squared
        update = g / v.sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()) / clip_threshold)
        m = update if beta1 is None else beta1 * m + (1 - beta1) * update
        w = w - rate * decay * w - rate * m
    return w


def muon(w, gradients, decay, hidden, momentum=0.95, ns_steps=5, **more):
    if not hidden:
        return adamw(w, gradients, decay, hidden, **more)
    velocity = torch.zeros_like(w)
    for g in gradients:
        velocity = momentum * velocity + (1 - momentum) * g
        direction = orthogonal(momentum * velocity + (1 - momentum) * g, ns_steps)
        w = w - LR * decay * w - LR * 0.2 * math.sqrt(max(w.shape)) * direction
    return w


def orthogonal(x: Tensor, steps: int) -> Tensor:
    """Newton-Schulz steps with Muon's coefficients: in bf16, as it is done, but exactly for fp64."""
    dtype = x.dtype
    x = x if dtype == torch.float64 else x.bfloat16()
    x = x / x.norm()
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.to(dtype)


OTHERS = {  # each option away from its default
    adamw: {"betas": (0.7, 0.9), "eps": 0.3},
    adam_: {"betas": (0.7, 0.9), "eps": 0.3},
    sgd: {"momentum": 0.8, "nesterov": True},
    lion: {"betas": (0.5, 0.8)},
    adafactor: {"beta1": 0.8, "decay_rate": -0.4, "clip_threshold": 0.5, "scale_parameter": True},
    muon: {"momentum": 0.7, "ns_steps": 4, "betas": (0.7, 0.9), "eps": 0.3},
}
CASES = [(each, {}) for each in OTHERS] + list(OTHERS.items()) + [(sgd, {"momentum": 0.9})]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact).square().mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("formula", "more"), CASES, ids=lambda case: getattr(case, "__name__", "other" if case else "default")
)
def test_the_formula(formula, more: dict, dtype: torch.dtype) -> None:
    """Root mean square error over six steps, against that of the same formula in the precision of training."""
    objective = Objective(dtype)
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    gradients: dict[str, list[Tensor]] = {n: [] for n in before}
    optimizer = optimizer_of(formula.__name__.rstrip("_"), objective, **more)
    for step in range(6):
        set_gradients(objective, step)
        for n, p in objective.named_parameters():
            gradients[n].append(p.grad.clone())
        optimizer.step()
    for n, p in objective.named_parameters():
        decay, hidden = (0.0 if n == "vector" else DECAY), n in ("matrix", "small", "tall")
        low = formula(before[n], gradients[n], decay, hidden, **more)
        exact = formula(before[n].double(), [g.double() for g in gradients[n]], decay, hidden, **more)
        tolerance = 3 * error(low, exact) + 3e-7
        assert error(p, exact) <= tolerance, n
        assert error(before[n], exact) > 2 * tolerance or more.get("scale_parameter"), n


def test_muons_updates_have_the_size_of_adamws() -> None:
    """Root mean square 0.2 to 0.4 of the learning rate, whatever the shape (arXiv:2502.16982, section 2.2)."""
    objective = Objective()
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    train(objective, optimizer_of("muon", objective), range(1))
    for name in ("matrix", "small", "tall"):
        moved = getattr(objective, name).detach() - before[name] * (1 - LR * DECAY)
        assert 0.1 < float(moved.square().mean().sqrt()) / LR < 0.4


def test_eight_bit_moments_by_hand() -> None:
    """Blocks of 256 with their largest magnitude, each number the nearest of the code book: AdamW with that much rounding."""
    import bitsandbytes.functional

    books = {signed: bitsandbytes.functional.create_dynamic_map(signed=signed).double() for signed in (True, False)}

    def quantise(moment: Tensor, signed: bool) -> Tensor:
        blocks = moment.double().flatten().view(-1, adam.BLOCK)
        largest = blocks.abs().amax(1, keepdim=True)
        nearest = (blocks / largest).unsqueeze(-1).sub(books[signed]).abs().argmin(-1)
        return (books[signed][nearest] * largest).view_as(moment).to(moment.dtype)

    objective = Objective()
    before, gradients = objective.matrix.detach().clone(), []
    optimizer = optimizer_of("adamw_8bit", objective)
    for step in range(4):
        set_gradients(objective, step)
        gradients.append(objective.matrix.grad.double())
        optimizer.step()
    by_hand = adamw(before.double(), gradients, DECAY, True, quantise=quantise)
    unrounded = adamw(before.double(), gradients, DECAY, True)
    off = (objective.matrix.detach() - by_hand).abs()
    # bitsandbytes finds the nearest code by a table: it takes the one beside it for one number in thirty, so no 99 % here.
    assert float(off.quantile(0.75)) < 1e-6
    assert float((by_hand - unrounded).abs().quantile(0.25)) > 1e-5


# what every optimizer must do


@pytest.mark.parametrize("name", [name for name in ON_CPU if name != "adam"])
def test_only_matrices_decay_by_the_learning_rate_of_the_moment(name: str) -> None:
    objective = Objective()
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    optimizer = optimizer_of(name, objective)
    set_gradients(objective, 0, size=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    for n, p in objective.named_parameters():
        torch.testing.assert_close(p.detach(), before[n] * (1 if n == "vector" else 1 - 0.5 * DECAY))


@pytest.mark.parametrize("name", ON_CPU)
def test_a_step_is_proportional_to_the_learning_rate(name: str) -> None:
    moved = {}
    for rate in (0.0, 0.1, 0.2):
        objective = Objective()
        optimizer = optimizer_of(name, objective)
        train(objective, optimizer, range(2))
        before = {n: p.detach().clone() for n, p in objective.named_parameters()}
        for group in optimizer.param_groups:
            group["lr"] = rate
        train(objective, optimizer, range(2, 3))
        moved[rate] = {n: p.detach() - before[n] for n, p in objective.named_parameters()}
    for n in SHAPES:
        assert not moved[0.0][n].any()
        torch.testing.assert_close(moved[0.2][n], 2 * moved[0.1][n], rtol=1e-3, atol=1e-5)
        assert moved[0.1][n].abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ON_CPU)
def test_the_state_goes_through_a_checkpoint_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Three steps, a checkpoint into a fresh optimizer, three steps more: as six steps."""

    more = {"sgd": {"momentum": 0.9}, "adafactor": {"beta1": 0.9}}.get(name, {})
    whole = Objective(dtype)
    stepping = optimizer_of(name, whole, **more)
    train(whole, stepping, range(3))
    saved_state.save_optimizer(tmp_path / "optimizer", Alone(whole, stepping))
    resumed = copy.deepcopy(whole)
    fresh = optimizer_of(name, resumed, **more)
    train(resumed, fresh, range(9, 10))  # a state of its own, which must go
    resumed.load_state_dict(whole.state_dict())
    saved_state.load_optimizer(tmp_path / "optimizer", Alone(resumed, fresh))
    train(whole, stepping, range(3, 6))
    train(resumed, fresh, range(3, 6))
    for (n, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), n
        ours, theirs = stepping.state[a], fresh.state[b]
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            other = theirs[key]
            assert type(value) is type(other)
            assert (
                torch.equal(value, other) and value.dtype == other.dtype if torch.is_tensor(value) else value == other
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ON_CPU)
def test_the_size_of_the_state_is_as_declared(name: str, dtype: torch.dtype) -> None:
    """Scalars and bitsandbytes' shared code books aside."""
    objective = Objective(dtype)
    for more in {"sgd": [{}, {"momentum": 0.9}], "adafactor": [{}, {"beta1": 0.9}]}.get(name, [{}]):
        optimizer = optimizer_of(name, objective, **more)
        train(objective, optimizer, range(1))
        for n, p in objective.named_parameters():
            kept = {k: v for k, v in optimizer.state[p].items() if torch.is_tensor(v) and v.ndim and "qmap" not in k}
            declared = parts.load("optimizers", name).state_bytes(
                options(name, **more), tuple(p.shape), p.itemsize, n in ("matrix", "small", "tall")
            )
            assert declared == sum(tensor.nbytes for tensor in kept.values()), n


@pytest.mark.parametrize("name", ON_CPU)
def test_what_is_elementwise_gives_the_same_on_flattened_shards(name: str) -> None:
    """As ZeRO does it: all parameters of a group in one vector. The 8-bit states of these small tensors are fp32."""
    part = parts.load("optimizers", name)
    whole = Objective()
    optimizer = optimizer_of(name, whole)
    start = torch.cat([whole.small.detach().flatten(), whole.tall.detach().flatten()])
    flat = torch.nn.Parameter(start.clone())
    group = {"params": [flat], "weight_decay": DECAY, "hidden": False}
    on_shards = part.build([group], options(name))
    for step in range(3):
        set_gradients(whole, step)
        flat.grad = torch.cat([whole.small.grad.flatten(), whole.tall.grad.flatten()])
        optimizer.step()
        on_shards.step()
    ours = torch.cat([whole.small.detach().flatten(), whole.tall.detach().flatten()])
    same = torch.allclose(ours, flat.detach(), rtol=1e-5, atol=1e-6)
    assert same is (part.ELEMENTWISE or name.endswith("_8bit"))
    assert not torch.allclose(ours, start, atol=1e-3)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_run_resumes_bit_for_bit(recipe: Path, name: str, tmp_path: Path) -> None:
    """Every parameter of the tiny model, through the command line."""
    words = ["method=full", "adapter=null", f"optimizer.name={name}", "optimizer.learning_rate=1e-3"]
    words += ["optimizer.momentum=0.9"] if name == "sgd" else []
    words += ["checkpoint.save_steps=3", "evaluation.metrics=[loss]"]
    whole = tmp_path / "whole"
    assert tiny.train(recipe, *words, f"output_dir={whole}") == 0
    losses = tiny.losses(whole)
    assert losses[6] != losses[1]
    cut = shutil.copytree(whole, tmp_path / "cut")
    (cut / "metrics.jsonl").unlink()
    assert tiny.train(recipe, *words, "--resume", str(cut / "checkpoints" / "step-00000003")) == 0
    assert tiny.losses(cut) == {step: losses[step] for step in (4, 5, 6)}
    name = "export/model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_every_optimizer_declares_its_facts() -> None:
    for name in parts.names("optimizers"):
        part = parts.load("optimizers", name)
        assert isinstance(part.ELEMENTWISE, bool)
        assert part.Config().name == name
        assert part.state_bytes(part.Config(), (3, 5), 4, True) >= 0


@pytest.mark.parametrize("name", parts.names("optimizers"))
def test_zero_is_refused_where_it_would_be_another_training(recipe: Path, name: str) -> None:
    """By the fact that the part declares; ddp holds whole tensors and takes them all."""
    part = parts.load("optimizers", name)
    shards = part.ELEMENTWISE and not getattr(part, "NEEDS_GPU", False)
    assert shards is (name in ("adam", "adamw", "sgd", "lion"))
    for strategy in ("zero1", "zero2", "zero3", "ddp"):
        words = ["optimizer.name=" + name, f"distributed.strategy={strategy}"]
        if shards or strategy == "ddp":
            load(recipe, words)
        else:
            with pytest.raises(RecipeErrors, match=f"optimizer.name: {name}: .*ZeRO .*; use adamw"):
                load(recipe, words)


def test_muon_alone_and_with_nothing_for_it() -> None:
    for hidden in (True, False):
        weight = torch.nn.Parameter(torch.ones(4, 4))
        optimizer = parts.load("optimizers", "muon").build(
            [{"params": [weight], "weight_decay": 0.0, "hidden": hidden}], options("muon")
        )
        weight.grad = torch.eye(4)
        optimizer.step()
        assert set(optimizer.state[weight]) == ({"momentum_buffer"} if hidden else {"step", "exp_avg", "exp_avg_sq"})


@pytest.mark.parametrize("name", ["adamw_8bit", "lion", "lion_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_without_bitsandbytes_it_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(EnvironmentProblem, match=f"{name} needs bitsandbytes.*optimizer.name=adamw"):
        optimizer_of(name, Objective())


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_state_that_is_loaded_is_paged_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU bitsandbytes makes plain tensors; here its maker of pages is one that counts."""
    objective = Objective()
    optimizer = optimizer_of(name, objective)
    assert optimizer.is_paged
    train(objective, optimizer, range(1))
    saved = copy.deepcopy(optimizer.state_dict())
    pages = []

    def page(parameter: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        pages.append(torch.zeros(parameter.shape, dtype=dtype))
        return pages[-1]

    monkeypatch.setattr(optimizer, "get_state_buffer", page)
    before = {p: optimizer.state[p]["state1"].clone() for p in objective.parameters()}
    optimizer.load_state_dict(saved)
    assert len(pages) == 2 * len(SHAPES)
    for parameter in objective.parameters():
        state = optimizer.state[parameter]["state1"]
        assert any(state is made for made in pages) and torch.equal(state, before[parameter])
