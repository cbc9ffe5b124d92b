"""Inputs on a device, exact results, those of plain PyTorch in the same precision, and what "no worse" means."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher_kernels import CrossEntropy, reference
from torch import Tensor
from torch.nn import functional

DRY_RUN = os.environ.get("LAUNCHER_GPU_DRY_RUN") == "cpu"
HALVES = (torch.bfloat16, torch.float16)
FP32 = 2e-6
SLACK = 1.5 if DRY_RUN else 1.1  # over plain PyTorch's error; in small shapes chance plays a part
KERNELS = Path(importlib.import_module("launcher_kernels").__file__).parents[1]
LINEAR = importlib.import_module("launcher_kernels.linear_cross_entropy")  # the name in the package is the function


@dataclass(frozen=True)
class Found:
    """A loss, and the gradients of the tensors that asked for one."""

    loss: Tensor
    gradients: dict[str, Tensor]

    def times(self, factor: float) -> "Found":
        return Found(self.loss * factor, {name: gradient * factor for name, gradient in self.gradients.items()})


def fit(*sizes: int) -> tuple[int, ...]:
    """The sizes, or in a dry run small ones that are as odd."""
    return tuple(size if not DRY_RUN or size <= 64 else 40 + size % 61 for size in sizes)


def name_of(value: Any) -> str:
    """Of a parameter, for the name of a test."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


def draw(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, seed: int = 0, size: float = 1.0) -> Tensor:
    """Normal numbers. The same in every precision, but for the rounding."""
    chance = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=chance, device=device).mul_(size).to(dtype)


def labels(num_rows: int, vocabulary: int, device: torch.device, ignored: float = 0.0, fill: int = -100) -> Tensor:
    """Classes, of which the share `ignored` is not looked at."""
    chance = torch.Generator(device).manual_seed(num_rows)
    target = torch.randint(vocabulary, (num_rows,), generator=chance, device=device)
    return target.masked_fill_(torch.rand(num_rows, generator=chance, device=device) < ignored, fill)


def head(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype, bias: bool = True) -> dict[str, Tensor]:
    """x (N, H), weight (V, H) and bias (V,); logits have a standard deviation of two."""
    num_rows, hidden, vocabulary = sizes
    tensors = {
        "x": draw((num_rows, hidden), device, dtype, seed=1),
        "weight": draw((vocabulary, hidden), device, dtype, seed=2, size=2 / math.sqrt(hidden)),
    }
    return tensors | ({"bias": draw((vocabulary,), device, dtype, seed=3)} if bias else {})


def run(
    loss_of: Callable[..., CrossEntropy],
    tensors: dict[str, Tensor],
    target: Tensor,
    frozen: tuple[str, ...] = (),
    upstream: Tensor | float | None = None,
    **options: Any,
) -> Found:
    """The loss of copies of the tensors, and their gradients; `upstream` is the gradient that comes from above."""
    leaves = {name: tensor.detach().clone().requires_grad_(name not in frozen) for name, tensor in tensors.items()}
    loss = loss_of(target=target, **leaves, **options).loss
    if loss.requires_grad:
        if upstream is None or isinstance(upstream, float):
            upstream = torch.full_like(loss, 1.0 if upstream is None else upstream)
        loss.backward(upstream)
    return Found(loss.detach(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None})


def exact(tensors: dict[str, Tensor], target: Tensor, **options: Any) -> Found:
    """The summed loss in fp64 on the very same numbers, some rows at a time."""
    by_rows = "logits" if "logits" in tensors else "x"
    loss_of = reference.cross_entropy if by_rows == "logits" else reference.linear_cross_entropy
    leaves = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    vocabulary = tensors["logits" if by_rows == "logits" else "weight"].shape[by_rows == "logits"]
    total = torch.zeros((), dtype=torch.float64, device=target.device)
    for rows in blocks(len(target), max(1, 2**26 // vocabulary)):
        some = {name: leaf[rows] if name == by_rows else leaf for name, leaf in leaves.items()}
        weight = options.get("token_weight")
        how = options | {"token_weight": None if weight is None else weight[rows], "reduction": "sum"}
        loss = loss_of(target=target[rows], **some, **how).loss
        loss.backward()
        total += loss.detach()
    return Found(total, {name: leaf.grad for name, leaf in leaves.items()})


def plain(tensors: dict[str, Tensor], target: Tensor, **options: Any) -> Found:
    """The same through PyTorch's own operators: products in the precision of x, the softmax in fp32."""

    def loss_of(
        x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, num_items: int | None = None, **how: Any
    ) -> CrossEntropy:
        if num_items is not None:
            how |= {"reduction": "sum"}
        loss = functional.cross_entropy(functional.linear(x, weight, bias).float(), target, **how)
        return CrossEntropy(loss if num_items is None else loss / num_items)

    return run(loss_of, tensors, target, **options)


def blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, total)) for first in range(0, total, size))


def distance(found: Tensor, truth: Tensor) -> float:
    """Relative, by the Frobenius norm; zero if both are."""
    assert found.shape == truth.shape
    difference = float((found.double() - truth.double()).norm())
    return difference / float(truth.double().norm()) if difference else 0.0


def units(found: Tensor, truth: Tensor) -> float:
    """The largest error in units of the last place of the exact result, less what fp32 inside may have cost."""
    digits, least = {torch.bfloat16: (8, -126), torch.float16: (11, -14)}[found.dtype]
    exponent = torch.frexp(truth).exponent.clamp(min=least + 1)
    error = (found.double() - truth).abs() - 1e-7 * truth.abs().max()
    return float((error / torch.ldexp(torch.ones_like(truth), exponent - digits)).max())


def worse(name: str, ours: Found, theirs: Found, truth: Found, dtype: torch.dtype, num_rows: int) -> list[str]:
    """What is further from the truth than plain PyTorch is. The errors of one sum of few rows may cancel by luck."""
    luck = torch.finfo(dtype).eps / 8 / math.sqrt(max(1, num_rows))
    allowed = 1.5 * distance(theirs.loss, truth.loss) + 1e-5 + luck
    found = [("loss", distance(ours.loss, truth.loss), allowed)]
    for tensor, gradient in ours.gradients.items():
        limit = SLACK * distance(theirs.gradients[tensor], truth.gradients[tensor])
        found.append((tensor, distance(gradient, truth.gradients[tensor]), max(limit, FP32)))
    return [f"{name}, {tensor}: {error:.2e} > {limit:.2e}" for tensor, error, limit in found if not error <= limit]


def in_pieces(monkeypatch: pytest.MonkeyPatch, rows: int = 2**30, columns: int = 2**30) -> None:
    """So many rows (chunk) or classes (recompute, stream) at a time, whatever the rule would say."""
    from launcher_kernels.choice import choose

    def chosen(num_rows: int, hidden: int, vocabulary: int, **how: Any) -> Any:
        choice = choose(num_rows, hidden, vocabulary, **how)
        return replace(choice, rows=max(1, min(rows, num_rows)), columns=min(columns, vocabulary))

    monkeypatch.setattr(LINEAR, "choose", chosen)


def skip_without_memory(gib: float) -> None:
    if not DRY_RUN and (free := torch.cuda.mem_get_info()[0] / 2**30) < gib:
        pytest.skip(f"needs {gib:.0f} GiB of free GPU memory, there are {free:.0f}")


def start_script(source: str, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
    """A Python program in a process of its own: a failed assertion on a GPU takes the process with it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(KERNELS), str(Path(__file__).parent)])}
    environment.pop("TRITON_INTERPRET", None)
    command = [*before, sys.executable, "-c", source, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
