"""Every optimizer against its formula in fp64, and what the rest of the launcher relies on: groups, state, size."""

import copy
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from launcher import adam, checkpoint, parts
from launcher.errors import EnvironmentProblem

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


# formulas: (weight, gradients of all steps, is it a hidden matrix) -> weight; each in the precision of what it is given


def adamw(
    w: Tensor, gradients: list[Tensor], decay: float, hidden: bool, quantise=lambda moment, signed: moment
) -> Tensor:
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        w = w - LR * decay * w - LR * step
        m, v = quantise(m, True), quantise(v, False)
    return w


def sgd(w: Tensor, gradients: list[Tensor], decay: float, hidden: bool) -> Tensor:
    velocity = torch.zeros_like(w)
    for g in gradients:
        velocity = 0.9 * velocity + g + decay * w
        w = w - LR * velocity
    return w


def lion(w: Tensor, gradients: list[Tensor], decay: float, hidden: bool) -> Tensor:
    m = torch.zeros_like(w)
    for g in gradients:
        w = w - LR * decay * w - LR * (0.9 * m + 0.1 * g).sign()
        m = 0.99 * m + 0.01 * g
    return w


def adafactor(w: Tensor, gradients: list[Tensor], decay: float, hidden: bool) -> Tensor:
    """Algorithms 4 and 5 of the paper with a learning rate in place of the relative step."""
    rows, columns, v = 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        beta, squared = 1 - t**-0.8, g * g + 1e-30
        if w.ndim == 2:
            rows = beta * rows + (1 - beta) * squared.mean(1)
            columns = beta * columns + (1 - beta) * squared.mean(0)
            v = torch.outer(rows, columns) / rows.mean()
        else:
            v = beta * v + (1 - beta) * squared
        update = g / v.sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        w = w - LR * decay * w - LR * update
    return w


def muon(w: Tensor, gradients: list[Tensor], decay: float, hidden: bool) -> Tensor:
    if not hidden:
        return adamw(w, gradients, decay, hidden)
    momentum = torch.zeros_like(w)
    for g in gradients:
        momentum = 0.95 * momentum + 0.05 * g
        direction = orthogonal(0.95 * momentum + 0.05 * g)
        w = w - LR * decay * w - LR * 0.2 * math.sqrt(max(w.shape)) * direction
    return w


def orthogonal(x: Tensor) -> Tensor:
    """Five Newton-Schulz steps with Muon's coefficients: in bf16, as it is done, but exactly for fp64."""
    dtype = x.dtype
    x = x if dtype == torch.float64 else x.bfloat16()
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.to(dtype)


REFERENCES = {"adamw": adamw, "sgd": sgd, "lion": lion, "adafactor": adafactor, "muon": muon}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact).square().mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REFERENCES)
def test_the_formula(name: str, dtype: torch.dtype) -> None:
    """Root mean square error over six steps, against that of the same formula in the precision of training."""
    objective = Objective(dtype)
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    gradients: dict[str, list[Tensor]] = {n: [] for n in before}
    optimizer = optimizer_of(name, objective, **({"momentum": 0.9} if name == "sgd" else {}))
    for step in range(6):
        set_gradients(objective, step)
        for n, p in objective.named_parameters():
            gradients[n].append(p.grad.clone())
        optimizer.step()
    for n, p in objective.named_parameters():
        decay, hidden = (0.0 if n == "vector" else DECAY), n in ("matrix", "small", "tall")
        low = REFERENCES[name](before[n], gradients[n], decay, hidden)
        exact = REFERENCES[name](before[n].double(), [g.double() for g in gradients[n]], decay, hidden)
        tolerance = 3 * error(low, exact) + 1e-7
        assert error(p, exact) <= tolerance, n
        assert error(before[n], exact) > 2 * tolerance, n


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
    by_hand = adamw(before.double(), gradients, DECAY, True, quantise)
    unrounded = adamw(before.double(), gradients, DECAY, True)
    off = (objective.matrix.detach() - by_hand).abs()
    # bitsandbytes finds the nearest code by a table: it takes the one beside it for one number in thirty, so no 99 % here.
    assert float(off.quantile(0.75)) < 1e-6
    assert float((by_hand - unrounded).abs().quantile(0.25)) > 1e-5


# what every optimizer must do


@pytest.mark.parametrize("name", ON_CPU)
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

    def engine(objective: Objective) -> SimpleNamespace:
        more = {"sgd": {"momentum": 0.9}, "adafactor": {"beta1": 0.9}}.get(name, {})
        return SimpleNamespace(objective=objective, optimizer=optimizer_of(name, objective, **more))

    whole = engine(Objective(dtype))
    train(whole.objective, whole.optimizer, range(3))
    checkpoint.write_optimizer(tmp_path / "optimizer", whole)
    resumed = engine(copy.deepcopy(whole.objective))
    train(resumed.objective, resumed.optimizer, range(9, 10))  # a state of its own, which must go
    resumed.objective.load_state_dict(whole.objective.state_dict())
    checkpoint.read_optimizer(tmp_path / "optimizer", resumed)
    for each in (whole, resumed):
        train(each.objective, each.optimizer, range(3, 6))
    for (n, a), b in zip(whole.objective.named_parameters(), resumed.objective.parameters(), strict=True):
        assert torch.equal(a, b), n
        ours, theirs = whole.optimizer.state[a], resumed.optimizer.state[b]
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
    """As ZeRO does it: all parameters of a group in one vector. Blocks of 8 bits begin elsewhere there; they are left out."""
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
    assert same is part.ELEMENTWISE
    assert not torch.allclose(ours, start, atol=1e-3)


def test_every_optimizer_declares_its_facts() -> None:
    for name in parts.names("optimizers"):
        part = parts.load("optimizers", name)
        assert isinstance(part.ELEMENTWISE, bool)
        assert part.Config().name == name
        assert part.state_bytes(part.Config(), (3, 5), 4, True) >= 0


def test_muon_alone_and_with_nothing_for_it() -> None:
    for hidden in (True, False):
        weight = torch.nn.Parameter(torch.ones(4, 4))
        optimizer = parts.load("optimizers", "muon").build(
            [{"params": [weight], "weight_decay": 0.0, "hidden": hidden}], options("muon")
        )
        weight.grad = torch.eye(4)
        optimizer.step()
        assert set(optimizer.state[weight]) == ({"momentum_buffer"} if hidden else {"step", "exp_avg", "exp_avg_sq"})


@pytest.mark.parametrize("name", ["adamw_8bit", "lion", "paged_adamw", "paged_adamw_8bit"])
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
