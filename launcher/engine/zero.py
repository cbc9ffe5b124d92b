"""Strategies zero1, zero2 and zero3 (Rajbhandari et al., arXiv:1910.02054): DeepSpeed, through Accelerate.

The ranks share out the optimizer's states, from zero2 on the gradients too, and under zero3 the weights.
"""

import copy
import gc
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from torch import Tensor, nn

from launcher.engine.replicated import MASTER, Gradient, OptimizerState, as_state, as_tensor
from launcher.errors import EnvironmentProblem
from launcher.loss_scale import ZeroLossScale
from launcher.plan import Plan
from launcher.precision import COMPUTE_DTYPES, HALF
from launcher.shards import full_shape

# DeepSpeed's optimizer -> its attribute for what it updates on this rank.
FLAT_PARTS = {
    "DeepSpeedZeroOptimizer": "single_partition_of_fp32_groups",
    "BF16_Optimizer": "fp32_groups_flat_partition",  # zero1 with bf16 weights
    "DeepSpeedZeroOptimizer_Stage3": "fp32_partitioned_groups_flat",
}


class Zero:
    """What a strategy does, for zero1, zero2 and zero3; `Replicated` has the same methods. The engine alone calls them."""

    def __init__(self, plan: Plan):
        assert plan.deepspeed is not None
        self.plan, self.stage = plan, plan.deepspeed["zero_optimization"]["stage"]
        self.in_step = self.stage == 3  # every forward pass gathers weights, so all ranks must make as many
        self.loss_scale: ZeroLossScale | None = None
        self._autocasts = plan.precision in HALF and not self._enabled("bf16")
        self._rendezvous = _set_environment(plan.device)
        self._linear = nn.functional.linear  # ZeRO-3 puts its own in place, for good
        # On a CPU, Accelerate sees a single process unless the backend is asked for.
        backend = "gloo" if plan.device == "cpu" else "nccl"
        self.accelerator = Accelerator(
            deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=copy.deepcopy(plan.deepspeed), zero3_init_flag=False),
            gradient_accumulation_steps=1,
            kwargs_handlers=[
                InitProcessGroupKwargs(backend=backend, timeout=timedelta(minutes=plan.timeout_minutes)),
            ],
        )
        _forget_configuration()  # Accelerate would have transformers shard every model from now on

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Around the creation of the base model: under zero3 a rank keeps its part of a weight as soon as there is one."""
        if self.stage < 3 or self.plan.quantization is not None:  # DeepSpeed takes quantised weights apart in `prepare`
            yield
            return
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        config = copy.deepcopy(self.plan.deepspeed)
        for name in ("bf16", "fp16"):  # here they name the type of the parts; what is trained in fp32 stays in fp32
            config[name] = {"enabled": self.plan.model_dtype == name}
        kept = HfDeepSpeedConfig(config)  # transformers holds it by a weak reference only
        try:
            yield
        finally:
            _forget_configuration()
            del kept

    def prepare(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        from deepspeed.runtime.zero import register_external_parameter
        from deepspeed.utils import set_z3_leaf_module

        self.objective, self.optimizer = objective, optimizer
        if self._autocasts and not self._enabled("torch_autocast"):
            objective.forward = self.autocast()(objective.forward)
        if self.stage == 3:
            for module in _leaf_modules(objective, self.plan.zero_leaf_modules):
                set_z3_leaf_module(module, True)
            # DeepSpeed finds them at their first use otherwise, in the middle of the pass that it records.
            for parameter in getattr(objective, "borrowed", tuple)():
                register_external_parameter(objective, parameter)
        self._wrapped, _ = self.accelerator.prepare(objective, optimizer)
        if type(self._wrapped).__name__ != "DeepSpeedEngine" or self._wrapped.zero_optimization_stage() != self.stage:
            raise AssertionError(f"strategy {self.plan.strategy} gave a {type(self._wrapped).__name__}")
        self._sharded = self._wrapped.optimizer
        if self._enabled("torch_autocast"):  # it is for gathering weights alone
            self._sharded.get_param_comm_dtype = lambda parameter: torch.float32
            self._sharded.torch_autocast_gradscaler = None
        if self.plan.precision == "fp16":
            self.loss_scale = ZeroLossScale(self._sharded.override_loss_scale, self.plan.world_size)
        return self._wrapped

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(
            self.accelerator.device.type, getattr(torch, COMPUTE_DTYPES[self.plan.precision]), enabled=self._autocasts
        )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Around a backward pass that belongs to no step: DeepSpeed's leaf modules would take its gradients for one's."""
        handles = getattr(self._sharded, "_leaf_module_hooks", ())
        taken = [(handle.hooks_dict_ref(), handle.id) for handle in handles]
        hooks = [of_module.pop(number) for of_module, number in taken]
        try:
            yield
        finally:
            for (of_module, number), hook in zip(taken, hooks, strict=True):
                of_module[number] = hook

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()  # `backward` tells DeepSpeed where the step ends

    def backward(self, loss: Tensor, last: bool) -> None:
        self._wrapped.set_gradient_accumulation_boundary(last)
        self._wrapped.backward(loss)

    def step(self, insist_finite: Callable[[float], None]) -> float:
        """DeepSpeed clips and updates at once; after a norm that is not finite, the run ends before anything is saved."""
        self._wrapped.step()
        norm = float(self._wrapped.get_global_grad_norm())  # infinite where fp16 skipped
        insist_finite(norm)
        if self.loss_scale is not None:
            self.loss_scale.after_step(norm)
        return norm

    def read(self, tensor: Tensor) -> Tensor:
        """The value of a parameter or buffer; where it is in parts, whole on rank zero and anything elsewhere.

        The parts are put together as they are kept: DeepSpeed's own gathering rounds to the type of the exchange.
        """
        if not hasattr(tensor, "ds_id"):
            return tensor.detach()
        part = tensor.ds_tensor.detach().to(self.accelerator.device)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
        dist.gather(part, parts, dst=0)
        return torch.cat(parts)[: tensor.ds_numel].view(tensor.ds_shape) if parts else part

    def write(self, tensor: Tensor, read: Callable[[], Tensor]) -> None:
        """Give a parameter or buffer, and the fp32 copy that the optimizer works on, the value that `read` gets from a file."""
        from deepspeed.utils import safe_set_full_fp32_param

        if not hasattr(tensor, "ds_id"):
            tensor.copy_(value := read())
            safe_set_full_fp32_param(tensor, value.to(tensor.device))
            return
        part = torch.empty_like(tensor.ds_tensor, device=self.accelerator.device)
        dist.scatter(part, _parts(read(), part) if dist.get_rank() == 0 else None, src=0)
        tensor.partition(has_been_updated=False)  # small ones stay gathered, with the old value
        tensor.ds_tensor.copy_(part)
        if hasattr(tensor, "_z3_optimizer") and tensor.requires_grad:
            tensor._z3_optimizer.set_local_hp_param(part, tensor)

    def gradients(self) -> Iterator[Gradient]:
        """Gathers the gradient of one parameter after the other; all ranks must come along."""
        from deepspeed.utils import safe_get_full_grad

        scale = self.loss_scale.of_rank if self.loss_scale is not None else 1.0
        for name, parameter in self._trained():
            gradient = safe_get_full_grad(parameter)
            yield name, None if gradient is None else gradient / scale

    def optimizer_states(self) -> Iterator[OptimizerState]:
        """Gathers one state of one parameter after the other; all ranks must come along."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link_states()
        long, short = self._kinds_of_state()
        for name, parameter in self._trained():
            for key in long:
                yield name, key, safe_get_full_optimizer_state(parameter, key)
            for key, value in short.items():
                yield name, key, value.clone()
            if parameter.dtype != torch.float32:
                yield name, MASTER, safe_get_full_fp32_param(parameter)

    def load_optimizer_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """`states`: parameter -> state -> value, for every parameter that is trained."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if not states:
            return
        trained = dict(self._trained())
        first = next(iter(states))
        self._make_states(states[first], full_shape(trained[first]))
        for name, parameter in trained.items():
            for key, value in states[name].items():
                if key == MASTER:
                    safe_set_full_fp32_param(parameter, value.to(self.accelerator.device))
                elif value.shape == full_shape(parameter):
                    safe_set_full_optimizer_state(parameter, value.to(self.accelerator.device), key)

    def release(self) -> None:
        """Make room for another objective."""
        from deepspeed.runtime import torch_autocast

        nn.functional.linear = self._linear
        torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
        if hasattr(self, "_wrapped"):
            self._wrapped.destroy()
            self.accelerator.free_memory()
            del self._wrapped, self._sharded, self.objective, self.optimizer
        gc.collect()

    def close(self) -> None:
        """Make room for another engine in this process: DeepSpeed keeps process groups and precision in globals."""
        from deepspeed.comm import comm
        from deepspeed.utils import groups

        self.release()
        for name in ("ACCELERATE_USE_DEEPSPEED", *self._rendezvous):
            os.environ.pop(name, None)
        comm.cdb = groups._WORLD_GROUP = groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = groups.mesh_device = None
        groups._ALL_TO_ALL_GROUP.clear()

    def _enabled(self, section: str) -> bool:
        """Of DeepSpeed's configuration."""
        return bool((self.plan.deepspeed or {}).get(section, {}).get("enabled"))

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.objective.named_parameters() if p.requires_grad)

    def _flat_parts(self) -> list[Tensor]:
        """What the optimizer updates on this rank, flattened, in fp32."""
        name = FLAT_PARTS[type(self._sharded).__name__]
        return list(getattr(self._sharded, name))

    def _kinds_of_state(self) -> tuple[list[str], dict[str, Tensor]]:
        """Names of the states that are as long as the parameters, and the states that are a single number."""
        long: dict[str, None] = {}
        short: dict[str, Tensor] = {}
        for part in self._flat_parts():
            for key, value in self.optimizer.state.get(part, {}).items():
                value = as_tensor(value)
                if value.shape == part.shape:  # of a single element, too, where a number by itself has no dimension
                    long[key] = None
                elif value.numel() == 1:
                    short[key] = value
                else:
                    raise AssertionError(f"{self.plan.strategy} cannot take apart the optimizer's state {key}")
        return list(long), short

    def _make_states(self, example: Mapping[str, Tensor], shape: torch.Size) -> None:
        """States of the right names, so that there is something to write into before the first step."""
        for part in self._flat_parts():
            for key, value in example.items():
                if key != MASTER:
                    is_long = value.shape == shape
                    made = torch.zeros_like(part) if is_long else as_state(value.clone())
                    self.optimizer.state[part][key] = made
        self._link_states()

    def _link_states(self) -> None:
        """DeepSpeed links them once, after the update of the first group of parameters, when the others have none yet."""
        if self.stage < 3:
            self._sharded._hp_optimizer_states_linked = False
            self._sharded._lazy_init_hp_params_optimizer_state()


def _forget_configuration() -> None:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _parts(value: Tensor, part: Tensor) -> list[Tensor]:
    """A value cut into as many parts as there are ranks, each like `part`, the last one padded."""
    flat = part.new_zeros(part.numel() * dist.get_world_size())
    flat[: value.numel()] = value.flatten()
    return list(flat.chunk(dist.get_world_size()))


def _set_environment(device: str) -> tuple[str, ...]:
    """What DeepSpeed and Accelerate read from the environment. Returns the names that must go with this engine."""
    if device == "cpu":
        os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu"}
    os.environ.pop("ACCELERATE_USE_CPU", None)  # drops DeepSpeed without a word
    try:
        from deepspeed import ops
    except ImportError as error:
        raise EnvironmentProblem(
            f"distributed.strategy asks for ZeRO, and DeepSpeed cannot be imported: {error}",
            fix="pip install deepspeed",
        ) from error
    # On a CPU it would compile C++ for a minute, to exchange faster within one host.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*_tensor` is deprecated", category=FutureWarning)  # its collectives
    if "RANK" in os.environ:
        return ()
    with socket.socket() as probe:  # a single process has a process group, too
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= alone
    return tuple(alone)


def _leaf_modules(objective: nn.Module, names: tuple[str, ...] | None) -> list[nn.Module]:
    """Modules whose children not every rank visits in every step, so that they must be gathered as a whole."""
    if names is None:
        return [
            module for module in objective.modules() if any(name == "experts" for name, _ in module.named_children())
        ]
    found = [module for module in objective.modules() if type(module).__name__ in names]
    if missing := set(names) - {type(module).__name__ for module in found}:
        classes = sorted({type(module).__name__ for module in objective.modules()})
        raise EnvironmentProblem(
            f"distributed.zero_leaf_modules: {', '.join(sorted(missing))} is no class of a module of this model",
            fix=f"it has {', '.join(classes)}",
        )
    return found
