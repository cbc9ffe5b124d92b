"""Inputs for the tests of the losses, one way to run any of them, and what "equal" means in each precision."""

from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
from launcher_kernels import CrossEntropy
from torch import Tensor

FP32 = 16 * torch.finfo(torch.float32).eps  # a few roundings of fp32 in a row
FP64 = 1e-12
LORA_SCALE = 0.75


class Outcome(NamedTuple):
    """What a loss returned, and the gradient of each tensor that asked for one."""

    result: CrossEntropy
    gradients: dict[str, Tensor | None]


def draw(*shape: int, seed: int = 0, size: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A leaf with normal numbers; in a lower precision the same numbers, rounded."""
    chance = torch.Generator().manual_seed(seed + 1000 * sum(shape))
    return (torch.randn(*shape, generator=chance, dtype=torch.float64) * size).to(dtype).requires_grad_()


def classes(num_rows: int, vocabulary: int, ignored: Iterable[int] = (), ignore_index: int = -100) -> Tensor:
    chance = torch.Generator().manual_seed(num_rows)
    target = torch.randint(vocabulary, (num_rows,), generator=chance)
    target[list(ignored)] = ignore_index
    return target


def head(
    num_rows: int, hidden: int = 8, vocabulary: int = 29, dtype: torch.dtype = torch.float64, with_lora: bool = False
) -> dict[str, Tensor]:
    """x, weight and bias, and LoRA's two factors of rank 3."""
    shapes = {"x": (num_rows, hidden), "weight": (vocabulary, hidden), "bias": (vocabulary,)}
    if with_lora:
        shapes |= {"lora_a": (3, hidden), "lora_b": (vocabulary, 3)}
    return {name: draw(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}


def run(
    loss_of: Callable[..., CrossEntropy],
    tensors: dict[str, Tensor],
    target: Tensor,
    upstream: Any = 1.0,
    **options: Any,
) -> Outcome:
    """The loss of copies of `tensors` (`lora_a` and `lora_b` become `lora`), gone through backward with `upstream` on it."""
    leaves = {name: tensor.detach().requires_grad_(tensor.requires_grad) for name, tensor in tensors.items()}
    inputs = dict(leaves)
    if "lora_a" in inputs:
        inputs["lora"] = inputs.pop("lora_a"), inputs.pop("lora_b"), LORA_SCALE
    result = loss_of(target=target, **inputs, **options)
    if result.loss.requires_grad:
        result.loss.backward(torch.as_tensor(upstream, dtype=result.loss.dtype).expand_as(result.loss))
    return Outcome(result._replace(loss=result.loss.detach()), {name: leaf.grad for name, leaf in leaves.items()})


def exactly(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The very same numbers in fp64."""
    return {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in tensors.items()}


def in_fp32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().float().requires_grad_(t.requires_grad) for name, t in tensors.items()}


def distance(a: Tensor, truth: Tensor) -> float:
    """Relative, by the Frobenius norm; 0 if both are zero."""
    assert a.shape == truth.shape
    difference = float((a.double() - truth.double()).norm())
    return difference / float(truth.double().norm()) if difference else 0.0


def assert_equal(ours: Outcome, truth: Outcome, tolerance: float) -> None:
    """Loss, extras and gradients; integers exactly, and zero only if it is zero."""
    assert_no_worse(ours, truth, truth, tolerance)


def assert_no_worse(ours: Outcome, plain: Outcome, truth: Outcome, slack: float, factor: float = 1.0) -> None:
    """The errors of `ours` are at most `factor` times those of `plain`, and relatively at most `slack` more."""
    for name, mine, other, true in zip(CrossEntropy._fields, ours.result, plain.result, truth.result, strict=True):
        assert (mine is None) == (true is None), name
        if mine is not None and not mine.is_floating_point():
            assert torch.equal(mine, true), name
        elif mine is not None:
            _assert_no_worse(name, mine, other, true, slack, factor)
    for name, true in truth.gradients.items():
        assert (ours.gradients[name] is None) == (true is None), name
        if true is not None:
            _assert_no_worse(name, ours.gradients[name], plain.gradients[name], true, slack, factor)


def _assert_no_worse(name: str, mine: Tensor, other: Tensor, true: Tensor, slack: float, factor: float) -> None:
    assert torch.equal(mine.isnan(), true.isnan()), name
    mine, other, true = (t.nan_to_num() for t in (mine, other, true))
    assert distance(mine, true) <= factor * distance(other, true) + slack, name


def in_ulps(a: Tensor, truth: Tensor, in_fp32: Tensor) -> float:
    """Largest error in units of the last place of `a`'s precision, beyond what fp32 makes of the same formula."""
    info = torch.finfo(a.dtype)
    magnitude = torch.frexp(truth.abs()).exponent - 1
    ulp = (torch.ldexp(torch.ones_like(truth), magnitude) * info.eps).clamp(min=info.smallest_normal * info.eps)
    slack = 2 * (in_fp32.double() - truth).abs().max() + torch.finfo(torch.float32).eps * truth.abs().max()
    return float(((a.double() - truth).abs() - slack).div(ulp).max())


def all_pairs(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Few combinations in which every two values of different options meet."""
    names = list(choices)
    everything = [dict(zip(names, values, strict=True)) for values in product(*choices.values())]

    def pairs(options: dict[str, Any]) -> set[tuple[tuple[str, Any], ...]]:
        return set(combinations(options.items(), 2))

    missing, chosen = set().union(*map(pairs, everything)), []
    while missing:
        best = max(everything, key=lambda options: len(pairs(options) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen
