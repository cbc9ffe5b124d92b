"""Devices, processes and precision: the only file that knows Accelerate (and, later, DeepSpeed).

Accelerate is told that accumulation is 1, and the boundary of a step is ours: `backward(..., last)` says when gradients are
exchanged. The loss of a micro-batch is scaled once, by `world / global count`, so the result does not depend on the slicing.
"""

import math
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from launcher.errors import NonFiniteError
from launcher.losses import Loss
from launcher.plan import Plan
from launcher.world import World, launched


def world() -> World:
    """The world this process was started into, from torchrun's variables and the hardware."""
    nodes, per_node = launched(os.environ)
    on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in ("1", "true")
    has_bf16 = torch.cuda.is_bf16_supported() if on_gpu else torch.cpu._is_amx_tile_supported()
    return World(nodes, per_node, "cuda" if on_gpu else "cpu", has_bf16)


class Engine:
    """Runs an Objective on this rank. Call in this order: `prepare`, then per step `backward` for each micro-batch and `step`."""

    def __init__(self, plan: Plan):
        torch.set_num_threads(_threads(plan))
        torch.set_float32_matmul_precision("high" if plan.precision == "tf32" else "highest")
        self.accelerator = Accelerator(
            cpu=plan.device == "cpu",
            mixed_precision=plan.precision if plan.precision in ("bf16", "fp16") else "no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(minutes=plan.timeout_minutes)),
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
        self.plan = plan
        self.device: torch.device = self.accelerator.device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        if self.world_size != plan.world_size:
            raise AssertionError(f"planned for {plan.world_size} processes, started with {self.world_size}")
        # Counts, votes and messages travel over gloo, so that a GPU need not be waited for.
        patience = timedelta(minutes=plan.timeout_minutes)
        self._group = dist.new_group(backend="gloo", timeout=patience) if self.world_size > 1 else None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(self, objective: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Move the objective to the device and wrap it. `objective` stays reachable without the wrapper."""
        self.objective, self.optimizer = objective, optimizer
        self._wrapped, self._optimizer = self.accelerator.prepare(objective, optimizer)
        expected = "DistributedDataParallel" if self.plan.strategy == "ddp" else type(objective).__name__
        if type(self._wrapped).__name__ != expected and self.world_size > 1:
            raise AssertionError(f"strategy {self.plan.strategy} gave a {type(self._wrapped).__name__}")

    def place(self, objective: torch.nn.Module) -> None:
        """For evaluation alone: move the objective to the device, in the precision of the plan, without an optimizer."""
        self.objective = self.accelerator.prepare_model(objective, evaluation_mode=True)

    def to_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def seed(self, *position: int) -> None:
        """Seed torch from a position in the run (step, micro-batch): no generator state has to be saved."""
        state = np.random.SeedSequence([self.plan.seed, *position]).generate_state(2, np.uint32)
        torch.manual_seed(int(state[0]) << 32 | int(state[1]))

    def forward_backward(self, batch: Mapping[str, torch.Tensor], counts: Mapping[str, float], last: bool) -> Loss:
        """Gradients of `sum over terms of weight * sum / global count`, exchanged between ranks if `last` of the step."""
        self.accelerator.sync_gradients = last
        with nullcontext() if last else self.accelerator.no_sync(self._wrapped):
            loss: Loss = self._wrapped(**self.to_device(batch), counts=self.objective.counts(batch))
            # DistributedDataParallel averages over ranks; the factor makes it a sum. A count of zero has a sum of zero.
            total = sum(
                weight * value * (self.world_size / max(counts[name], 1))
                for name, (value, _, weight) in loss.terms.items()
            )
            self.accelerator.backward(total)
        return loss

    def step(self) -> float:
        """Clip, update, clear; returns the gradient norm before clipping. A NaN never reaches the weights."""
        limit = self.plan.max_grad_norm if self.plan.max_grad_norm is not None else math.inf
        norm = float(self.accelerator.clip_grad_norm_(self._wrapped.parameters(), limit))
        if not math.isfinite(norm) and self.plan.precision != "fp16":  # fp16's loss scaling skips such a step by itself
            raise NonFiniteError(
                f"the gradient norm is {norm}", fix="lower optimizer.learning_rate, or look at the data of this step"
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def evaluate(self, batch: Mapping[str, torch.Tensor]) -> Loss:
        """The loss without gradients. Goes past the wrapper, so ranks need not stay in step."""
        with torch.no_grad():
            return self.objective(**self.to_device(batch), counts=self.objective.counts(batch))

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of training."""
        return self.accelerator.autocast()

    @contextmanager
    def generating(self) -> Iterator[Any]:
        """The bare model for generation, in the precision of training."""
        with self.autocast(), torch.no_grad():
            yield self.objective.model

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum numbers over all ranks, in fp64; every rank gets the result. All ranks must give the same names."""
        if self._group is None:
            return dict(values)
        names = sorted(values)
        packed = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
        dist.all_reduce(packed, group=self._group)
        return dict(zip(names, packed.tolist(), strict=True))

    def gather(self, thing: Any) -> list[Any]:
        """Something small from every rank, in the order of ranks, on every rank."""
        if self._group is None:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing, group=self._group)
        return things

    def broadcast(self, thing: Any) -> Any:
        """Rank zero's value on every rank."""
        return self.gather(thing)[0]

    def barrier(self) -> None:
        if self._group is not None:
            dist.barrier(group=self._group)

    def peak_memory_gib(self) -> float:
        """Peak of this process so far: GPU memory allocated, or resident memory on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def scaler_state(self) -> dict[str, Any] | None:
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        if state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)

    def close(self) -> None:
        """Leave the process group, and make room for another engine in this process (Accelerate keeps its state globally)."""
        if dist.is_initialized():
            dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def param_groups(objective: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights that decay, and norms and biases (every tensor of less than two dimensions) that do not."""
    trained: Sequence[torch.nn.Parameter] = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _threads(plan: Plan) -> int:
    """OMP_NUM_THREADS above 1 is a person's wish; 1 is also what torchrun sets by itself, so it does not count."""
    asked = int(os.environ.get("OMP_NUM_THREADS", "1") or 1)
    return asked if asked > 1 else plan.threads_per_process
