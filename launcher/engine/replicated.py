"""Strategies none and ddp: every rank holds the whole of everything, and gradients are averaged at the end of a step."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from launcher.plan import Plan

OptimizerState = tuple[str, str, Tensor]  # name of the parameter, name of the state, value
Gradient = tuple[str, Tensor | None]  # name of the parameter, value; None where no backward pass reached it


class Replicated:
    """What a strategy does, for none and ddp; `Zero` has the same methods. The engine alone calls them."""

    in_step = False  # a forward pass concerns its own rank alone

    def __init__(self, plan: Plan):
        self.plan = plan
        self.accelerator = Accelerator(
            cpu=plan.device == "cpu",
            mixed_precision=plan.precision if plan.precision in ("bf16", "fp16") else "no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(minutes=plan.timeout_minutes)),
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )

    def creating(self) -> AbstractContextManager[None]:
        """Around the creation of the base model."""
        return nullcontext()

    def prepare(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        self.objective, self.optimizer = objective, optimizer
        self._wrapped, self._optimizer = self.accelerator.prepare(objective, optimizer)
        expected = "DistributedDataParallel" if self.plan.strategy == "ddp" else type(objective).__name__
        if type(self._wrapped).__name__ != expected and self.plan.world_size > 1:
            raise AssertionError(f"strategy {self.plan.strategy} gave a {type(self._wrapped).__name__}")
        return self._wrapped

    def autocast(self) -> AbstractContextManager[None]:
        return self.accelerator.autocast()

    def no_sync(self) -> AbstractContextManager[None]:
        return self.accelerator.no_sync(self._wrapped)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.accelerator.sync_gradients = last
        self.accelerator.backward(loss)

    def step(self, insist_finite: Callable[[float], None]) -> float:
        limit = self.plan.max_grad_norm if self.plan.max_grad_norm is not None else math.inf
        norm = float(self.accelerator.clip_grad_norm_(self._wrapped.parameters(), limit))
        insist_finite(norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def read(self, tensor: Tensor) -> Tensor:
        """The value of a parameter or buffer; where it is in parts, whole on rank zero and anything elsewhere."""
        return tensor.detach()

    def write(self, tensor: Tensor, read: Callable[[], Tensor]) -> None:
        """Give a parameter or buffer the value that `read` gets from a file."""
        tensor.copy_(read())

    def gradients(self) -> Iterator[Gradient]:
        """Of each trained parameter, after the last backward pass of a step and before the step."""
        scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler is not None else 1.0
        for name, parameter in self.objective.named_parameters():
            if parameter.requires_grad:
                yield name, None if parameter.grad is None else parameter.grad / scale

    def optimizer_states(self) -> Iterator[OptimizerState]:
        names = names_by_index(self.objective, self.optimizer)
        for index, states in self.optimizer.state_dict()["state"].items():
            for key, value in states.items():
                if value is not None:
                    yield names[index], key, torch.as_tensor(value)

    def load_optimizer_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """`states`: parameter -> state -> value, for every parameter that is trained."""
        names = names_by_index(self.objective, self.optimizer)
        state = {index: dict(states[name]) for index, name in names.items() if states}
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def scaler_state(self) -> dict[str, Any] | None:
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)

    def close(self) -> None:
        """Nothing outlives the process group."""


def names_by_index(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The optimizer's running number of each parameter -> its name in the objective."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {index: names[id(parameter)] for index, parameter in enumerate(parameters)}
