"""Strategies none and ddp: every rank holds the whole of everything, and gradients are averaged at the end of a step."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from launcher.loss_scale import LossScale
from launcher.plan import Plan

# Accelerate knows the old name only; `batch_norm` keeps the buffers that training changes the same on all ranks.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)

MASTER = "master"  # ZeRO's state that holds the fp32 copy of a parameter that is kept in bf16
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
                DistributedDataParallelKwargs(
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                    find_unused_parameters=bool(plan.unused_parameters),
                ),
            ],
        )
        self.loss_scale = LossScale(self.accelerator.device, plan.world_size) if plan.precision == "fp16" else None
        if self.loss_scale is not None:  # on a CPU, Accelerate would train in fp32 and not say so
            self.accelerator.native_amp, self.accelerator.scaler = True, self.loss_scale.scaler

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

    def apart(self) -> AbstractContextManager[None]:
        """Around a backward pass that belongs to no step."""
        return nullcontext()

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
        if self.loss_scale is not None:
            self.loss_scale.after_step(norm)
        return norm

    def read(self, tensor: Tensor) -> Tensor:
        """The value of a parameter or buffer; where it is in parts, whole on rank zero and anything elsewhere."""
        return tensor.detach()

    def write(self, tensor: Tensor, read: Callable[[], Tensor]) -> None:
        """Give a parameter or buffer the value that `read` gets from a file."""
        tensor.copy_(read())

    def gradients(self) -> Iterator[Gradient]:
        """Of each trained parameter, after the last backward pass of a step and before the step."""
        scale = self.loss_scale.of_rank if self.loss_scale is not None else 1.0
        for name, parameter in self.objective.named_parameters():
            if parameter.requires_grad:
                yield name, None if parameter.grad is None else parameter.grad / scale

    def optimizer_states(self) -> Iterator[OptimizerState]:
        names = {id(parameter): name for name, parameter in self.objective.named_parameters()}
        for parameter, states in self.optimizer.state.items():
            for key, value in states.items():
                if value is not None:
                    yield names[id(parameter)], key, as_tensor(value)

    def load_optimizer_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """`states`: parameter -> state -> value, for every parameter that is trained. ZeRO's fp32 copies have no place here."""
        names = {id(parameter): name for name, parameter in self.objective.named_parameters()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        saved = [
            {key: as_state(value) for key, value in states[names[id(p)]].items() if key != MASTER}
            for p in parameters
            if states
        ]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(enumerate(saved)), "param_groups": groups})
        if not type(self.optimizer).__module__.startswith("torch."):
            for parameter, state in zip(parameters, saved, strict=bool(states)):
                _undo_casts(self.optimizer.state[parameter], state)

    def release(self) -> None:
        """Make room for another objective."""
        self.accelerator.free_memory()
        del self.objective, self.optimizer, self._wrapped, self._optimizer

    def close(self) -> None:
        """Nothing outlives the process group."""


def as_tensor(value: Any) -> Tensor:
    """A state of an optimizer for a file. Plain numbers become int64 and fp64, which no single tensor of a state is."""
    if torch.is_tensor(value):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def as_state(tensor: Tensor) -> Any:
    """What `as_tensor` was given."""
    return tensor.item() if tensor.ndim == 0 and tensor.dtype in (torch.int64, torch.float64) else tensor


def _undo_casts(loaded: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """PyTorch gives a state the type of its parameter, as its own optimizers want it; others keep fp32 beside bf16."""
    for key, value in saved.items():
        if torch.is_tensor(value) and loaded[key].dtype != value.dtype:
            loaded[key] = value.to(loaded[key].device)
