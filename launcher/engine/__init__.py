"""Devices, processes and precision: the only package that knows Accelerate and DeepSpeed.

Accelerate is told that accumulation is 1, and the boundary of a step is ours: `forward_backward(..., last)` says when gradients
are exchanged. The loss of a micro-batch is scaled once, by `world / global count`, so the result does not depend on the slicing.
What differs between strategies stands in `replicated` (none, ddp) and `zero` (zero1, zero2, zero3).
"""

import math
import os
import resource
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

# Where DeepSpeed is installed, other libraries import it, and it complains that it finds no GPU.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

from accelerate.state import AcceleratorState
from torch import Tensor

from launcher.engine.average import Average
from launcher.engine.replicated import OptimizerState, Replicated
from launcher.engine.zero import Zero
from launcher.errors import NonFiniteError
from launcher.loss_scale import LossScale, ZeroLossScale
from launcher.losses import Loss
from launcher.penalty import Penalty
from launcher.plan import Plan
from launcher.shards import full_shape
from launcher.world import World, launched


def world() -> World:
    """The world this process was started into, from torchrun's variables and the hardware."""
    nodes, per_node = launched(os.environ)
    on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in ("1", "true")
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else torch.cpu._is_amx_tile_supported()
    memory_bytes = None
    if on_gpu:
        visible = max(1, torch.cuda.device_count())  # a process may see only its own
        memory_bytes = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", "0")) % visible).total_memory
    return World(nodes, per_node, "cuda" if on_gpu else "cpu", has_bf16, memory_bytes=memory_bytes)


class Engine:
    """Runs an Objective on this rank. Call in this order: `prepare`, then per step `backward` for each micro-batch and `step`."""

    _average: Average | None = None

    def __init__(self, plan: Plan):
        torch.set_num_threads(_threads(plan))
        torch.set_float32_matmul_precision("high" if plan.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = plan.precision == "tf32"  # convolutions would take it by default
        self._strategy = Replicated(plan) if plan.deepspeed is None else Zero(plan)
        self.plan = plan
        self.device: torch.device = self._strategy.accelerator.device
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

    @property
    def in_step(self) -> bool:
        """Whether all ranks must make equally many forward passes, since weights are gathered in them."""
        return self._strategy.in_step and self.world_size > 1

    @property
    def loss_scale(self) -> LossScale | ZeroLossScale | None:
        """Of fp16."""
        return self._strategy.loss_scale

    def creating(self) -> AbstractContextManager[None]:
        """Around the creation of the base model: where weights are sharded, no rank ever holds all of them."""
        return self._strategy.creating()

    def prepare(self, objective: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Move the objective to the device and wrap it. `objective` stays reachable without the wrapper."""
        self.objective, self.optimizer = objective, optimizer
        # Before ZeRO puts its own tensors into the groups.
        self._penalty = Penalty(optimizer.param_groups, self.plan.l1, self.plan.group_lasso)
        self._wrapped = self._strategy.prepare(objective, optimizer)
        self._average = None if self.plan.ema is None else Average(objective, self.plan.ema)

    def release(self) -> None:
        """Let go of what was prepared, so that something else can be."""
        self._strategy.release()
        del self.objective, self.optimizer, self._wrapped
        self._average = None

    def place(self, objective: torch.nn.Module) -> None:
        """For evaluation alone, without sharding: move the objective to the device, in the precision of the plan."""
        self.objective = self._strategy.accelerator.prepare_model(objective, evaluation_mode=True)

    def to_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def seed(self, *position: int) -> None:
        """Seed torch and numpy from a position in the run (step, micro-batch): no generator state has to be saved.

        transformers masks the inputs of speech models by numpy's global generator.
        """
        state = np.random.SeedSequence([self.plan.seed, *position]).generate_state(2, np.uint32)
        np.random.seed(int(state[0]))
        torch.manual_seed(int(state[0]) << 32 | int(state[1]))

    def forward_backward(self, batch: Mapping[str, Tensor], counts: Mapping[str, float], last: bool) -> Loss:
        """Gradients of `sum over terms of weight * sum / global count`, exchanged between ranks if `last` of the step; then with
        those of the penalty, which the loss that is returned leaves out.

        A count may be a sum of weights below 1. A count of zero has a sum of zero.
        """
        with nullcontext() if last else self._strategy.no_sync():
            loss: Loss = self._wrapped(**self.to_device(batch), counts=self.objective.counts(batch))
            # Gradients are averaged over ranks; the factor makes it a sum.
            total = sum(
                weight * value * (self.world_size / (counts[name] or 1))
                for name, (value, _, weight) in loss.terms.items()
            )
            if last and self._penalty:  # averaged over the ranks, which all add it
                total = total + self._penalty()
            self._strategy.backward(total, last)
        return loss

    def step(self) -> float:
        """Clip, update, clear; returns the gradient norm before clipping. After a NaN the run ends, and nothing is saved.

        With fp16 a norm that is not finite is returned: that step changed nothing, see `loss_scale`.
        """
        return self._strategy.step(self._insist_finite)

    def _insist_finite(self, norm: float) -> None:
        if not math.isfinite(norm) and self.plan.precision != "fp16":  # fp16's loss scaling skips such a step by itself
            raise NonFiniteError(
                f"the gradient norm is {norm}", fix="lower optimizer.learning_rate, or look at the data of this step"
            )

    def average(self, number: int) -> None:
        """Take the weights after the `number`-th step, from 1, into their moving average, where the plan has one."""
        if self._average is not None:
            self._average.update(number)

    def averaged(self) -> AbstractContextManager[None]:
        """The weights as they are evaluated, saved as the model, and exported."""
        return nullcontext() if self._average is None else self._average.in_place()

    def settle(self) -> None:
        """The training is over: the weights are what `averaged` made them."""
        if self._average is not None:
            self._average.settle()
            self._average = None

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)

    def evaluate(self, batch: Mapping[str, torch.Tensor]) -> Loss:
        """The loss without gradients. Goes past the wrapper, so ranks need not stay in step."""
        with torch.no_grad(), self.autocast():
            return self.objective(**self.to_device(batch), counts=self.objective.counts(batch))

    def apart(self) -> AbstractContextManager[None]:
        """Around a backward pass that belongs to no step."""
        return self._strategy.apart()

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of training."""
        return self._strategy.autocast()

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

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all ranks, to the bit the same on each of them."""
        if self._group is None:
            return values
        summed = values.cpu()
        dist.all_reduce(summed, group=self._group)
        return summed.to(values.device)

    def gather(self, thing: Any) -> list[Any]:
        """Something small from every rank, in the order of ranks, on every rank."""
        if self._group is None:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing, group=self._group)
        return things

    def collect(self, thing: Any) -> list[Any] | None:
        """Something from every rank, in the order of ranks, on rank zero; None elsewhere."""
        if self._group is None:
            return [thing]
        things: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(thing, things, dst=0, group=self._group)
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

    # --- what is saved and loaded: collective, one tensor at a time, on rank zero alone ---------------------------------

    def weights(self, model: Any, only: Collection[str] | None = None) -> Iterator[tuple[str, Tensor | None]]:
        """(name, value on the CPU) of each parameter and buffer of the model's state; the value is None but on rank zero.

        Of tensors that share memory, only the first. Every rank must go through all of them.
        """
        seen: set[int] = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if id(tensor) in seen or not torch.is_tensor(tensor) or (only is not None and name not in only):
                continue
            seen.add(id(tensor))
            value = self._strategy.read(tensor)
            yield name, value.cpu().contiguous() if self.is_main else None

    def load_weights(self, model: Any, read: Mapping[str, Callable[[], Tensor]]) -> None:
        """Put values into the model's parameters and buffers by name: whatever their sharding, before or after `prepare`."""
        state = model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in read.items():
                self._strategy.write(state[name], value)
        if self._average is not None:
            self._average.begin()

    def gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        """(parameter, gradient in fp32 on the CPU) of each trained parameter; the gradient is None but on rank zero.

        Between the last `forward_backward` of a step and `step` it is that of the global batch: not clipped, without fp16's
        scaling, zero where no backward pass came. Every rank must go through all of them.
        """
        shapes = {name: full_shape(parameter) for name, parameter in self.objective.named_parameters()}
        for name, gradient in self._strategy.gradients():
            if gradient is None:
                gradient = torch.zeros(shapes[name])
            yield name, gradient.detach().cpu().float().contiguous() if self.is_main else None

    def optimizer_states(self) -> Iterator[OptimizerState]:
        """(parameter, state, value) of all states of the optimizer. Every rank must go through all of them."""
        yield from self._strategy.optimizer_states()
        if self._average is not None:
            yield from self._average.states()

    def load_optimizer_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Parameter -> state -> value, for every parameter that is trained."""
        if self._average is not None:
            with torch.no_grad():
                states = self._average.load(states, self._strategy.write)
        self._strategy.load_optimizer_states(states)

    def scaler_state(self) -> dict[str, Any] | None:
        return self.loss_scale.state() if self.loss_scale is not None else None

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        if state and self.loss_scale is not None:
            self.loss_scale.load(state)

    def close(self) -> None:
        """Leave the process group, and make room for another engine in this process (Accelerate keeps its state globally)."""
        self._strategy.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def _threads(plan: Plan) -> int:
    """OMP_NUM_THREADS above 1 is a person's wish; 1 is also what torchrun sets by itself, so it does not count."""
    asked = int(os.environ.get("OMP_NUM_THREADS", "1") or 1)
    return asked if asked > 1 else plan.threads_per_process
