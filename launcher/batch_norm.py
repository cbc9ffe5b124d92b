"""Batch normalisation (Ioffe and Szegedy, arXiv:1502.03167) over micro-batches and ranks.

Each micro-batch is normalised with its own mean and variance. A step moves the running ones, which evaluation and the export
use, once: from `old` to `old + momentum * (mean over the micro-batches of all ranks - old)`. So they are the same on every rank,
and do not depend on how many there are. A step that fp16 skips moves them too, as in PyTorch.

Layers that are not trained, such as those of an adapter's base, keep their running statistics and normalise with them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from launcher import log
from launcher.engine import Engine
from launcher.errors import RecipeError


def trained(model: nn.Module) -> dict[str, Any]:
    """Name -> each layer with running statistics that training moves. One without weights is trained with the whole model."""
    in_full = all(weight.requires_grad for weight in model.parameters())
    return {
        name: layer
        for name, layer in _layers(model).items()
        if in_full or any(weight.requires_grad for weight in layer.parameters(recurse=False))
    }


def _layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}


class Before(NamedTuple):
    """A layer's state before a step."""

    mean: Tensor
    variance: Tensor
    steps: Tensor
    momentum: float | None


class BatchNorms:
    """The batch normalisation of an objective. Around the micro-batches of a step: `step`; around each one: `micro_batch`."""

    def __init__(self, objective: nn.Module, engine: Engine, full_rows: int):
        """`full_rows`: of a micro-batch that the end of an epoch has not cut short."""
        self._engine, self._full_rows, self._said = engine, full_rows, False
        self._rows: int | None = None  # of the micro-batch that is being computed
        found = trained(objective)
        self._trained = list(found.values())
        self._frozen = [layer for name, layer in _layers(objective).items() if name not in found]
        for name, layer in found.items():
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: self._choose(name, layer, inputs[0]))

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is computed inside is one step, and every rank must leave it."""
        for layer in self._frozen:
            layer.eval()
        before = [_begin(layer) for layer in self._trained]
        yield
        if self._trained:
            self._end(before)

    @contextmanager
    def micro_batch(self, rows: int) -> Iterator[None]:
        """Forward and backward pass of one micro-batch; what goes through the layers without rows leaves no trace."""
        self._rows = rows
        yield
        self._rows = None
        for layer in self._trained:
            layer.train()

    def _choose(self, name: str, layer: Any, values: Tensor) -> None:
        """A single value has no variance: what is to be done without its own statistics is done with the running ones."""
        if self._rows is None:
            return
        single = values.numel() <= values.shape[1]
        if single and self._rows >= self._full_rows:
            raise RecipeError(
                f"{name} normalises each micro-batch by itself, and it gets a single value",
                fix="raise training.per_device_train_batch_size or data.image_size",
            )
        if single and self._rows and not self._said:
            log.say(f"note: a micro-batch of {self._rows} rows is normalised with the running statistics in {name}")
            self._said = True
        layer.train(self._rows > 0 and not single)

    def _end(self, before: list[Before]) -> None:
        """PyTorch has averaged over this rank's micro-batches; average over the ranks, and move the running statistics."""
        passes = torch.stack([layer.num_batches_tracked for layer in self._trained]).double()
        own = [
            values.double() * number
            for layer, number in zip(self._trained, passes, strict=True)
            for values in (layer.running_mean, layer.running_var)
        ]
        total = self._engine.total(torch.cat([passes, *own]))
        numbers, *sums = total.split([len(passes), *(len(values) for values in own)])
        for place, (layer, was) in enumerate(zip(self._trained, before, strict=True)):
            _move(layer, was, sums[2 * place], sums[2 * place + 1], numbers[place])


def _begin(layer: Any) -> Before:
    """Without momentum, PyTorch averages over the forward passes since a reset."""
    was = (layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone())
    before = Before(*was, layer.momentum)
    layer.reset_running_stats()
    layer.momentum = None
    return before


def _move(layer: Any, before: Before, mean: Tensor, variance: Tensor, number: Tensor) -> None:
    """`mean` and `variance`: sums over `number` micro-batches. A layer that none went through stays as it was."""
    layer.momentum = before.momentum
    share = before.momentum if before.momentum is not None else 1 / (before.steps + 1)
    some = number > 0
    for running, old, total in (
        (layer.running_mean, before.mean, mean),
        (layer.running_var, before.variance, variance),
    ):
        running.copy_(torch.where(some, old + share * (total / number - old), old))
    layer.num_batches_tracked.copy_(before.steps + some)
