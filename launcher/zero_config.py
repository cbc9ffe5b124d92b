"""The DeepSpeed configuration of a run, made from the recipe and merged with what a user brings. Pure: no torch, no DeepSpeed.

Accumulation is 1 and the batch is 1 in it because the engine owns both; clipping, precision and stage are the plan's. A user's
own file may say the same, or say more, but may not say otherwise.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import RecipeError
from launcher.precision import COMPUTE_DTYPES, HALF
from launcher.recipe import Recipe
from launcher.section import plain

STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}

# DeepSpeed key -> recipe key that decides it. A user's file that differs here is a contradiction.
DECIDED_BY = {
    "zero_optimization.stage": "distributed.strategy",
    "zero_optimization.offload_optimizer.device": "distributed.offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "distributed.offload_dir",
    "zero_optimization.offload_param.device": "distributed.offload_param",
    "zero_optimization.offload_param.nvme_path": "distributed.offload_dir",
    "zero_optimization.zero_quantized_weights": "distributed.zero_quantized_weights",
    "zero_optimization.zero_quantized_gradients": "distributed.zero_quantized_gradients",
    "zero_optimization.zero_hpz_partition_size": "distributed.zero_hpz_partition_size",
    "gradient_clipping": "training.max_grad_norm",
    "bf16.enabled": "training.precision and model.dtype",
    **dict.fromkeys(
        (f"fp16.{key}" for key in ("enabled", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis")),
        "training.precision (the launcher scales the loss by itself)",
    ),
    "torch_autocast.enabled": "training.precision",
    "torch_autocast.dtype": "training.precision",
    "train_batch_size": "training.global_batch_size (the launcher accumulates by itself)",
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size (the launcher accumulates by itself)",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps (the launcher accumulates by itself)",
    "zero_force_ds_cpu_optimizer": "optimizer.name",
}
# Sections of DeepSpeed that would do what a section of the recipe does.
TAKEN = {
    "optimizer": "optimizer",
    "scheduler": "scheduler",
    "activation_checkpointing": "training.gradient_checkpointing",
    "tensorboard": "logging.trackers",
    "wandb": "logging.trackers",
    "csv_monitor": "logging.trackers",
    "comet": "logging.trackers",
    "amp": "training.precision",
    "autotuning": "training",
    "curriculum_learning": "data",
    "data_efficiency": "data",
}
# What a key says that we leave out: switched off.
UNSET = {
    "zero_optimization.offload_optimizer.device": "none",
    "zero_optimization.offload_param.device": "none",
    "zero_optimization.zero_hpz_partition_size": 1,
}
MAX_BUCKET = 200_000_000  # elements of one collective
MAX_SUB_GROUP = 1_000_000_000  # parameters that one pass of the optimizer updates


@dataclass(frozen=True)
class Shape:
    """What the sizes in the configuration follow from; None where the model's configuration cannot be read."""

    parameters: int | None = None
    trainable: int | None = None
    num_layers: int | None = None
    hidden_size: int | None = None


def make(
    recipe: Recipe, strategy: str, world_size: int, precision: str, trains_bf16: bool, shape: Shape
) -> dict[str, Any]:
    """The configuration for `strategy`, one of zero1, zero2 and zero3. `trains_bf16`: the weights that are trained are bf16.

    RecipeError where distributed.deepspeed_config contradicts the recipe.
    """
    zero: dict[str, Any] = {"stage": STAGES[strategy]}
    zero |= _offload(recipe) | _plus_plus(recipe) | _sizes(strategy, shape)
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "gradient_clipping": recipe.training.max_grad_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would take the place of the recipe's optimizer, without its betas
    }
    ours |= _precision(precision, trains_bf16, gathers_trained=strategy == "zero3" and recipe.method == "full")
    return _merged(ours, _users(recipe), recipe)


def _offload(recipe: Recipe) -> dict[str, Any]:
    section = recipe.distributed
    made: dict[str, dict[str, Any]] = {}
    for name, device in (("offload_optimizer", section.offload_optimizer), ("offload_param", section.offload_param)):
        if device != "none":
            made[name] = {"device": device, "pin_memory": True}
            if device == "nvme":
                made[name]["nvme_path"] = section.offload_dir
    return made


def _plus_plus(recipe: Recipe) -> dict[str, Any]:
    """ZeRO++ (Wang et al., arXiv:2306.10209)."""
    section = recipe.distributed
    made = {
        "zero_quantized_weights": section.zero_quantized_weights,
        "zero_quantized_gradients": section.zero_quantized_gradients,
        "zero_hpz_partition_size": section.zero_hpz_partition_size if section.zero_hpz_partition_size > 1 else None,
    }
    return {name: value for name, value in made.items() if value}


def _sizes(strategy: str, shape: Shape) -> dict[str, Any]:
    """Buckets as large as is useful: DeepSpeed allocates them whole, however little is trained."""
    trainable = shape.trainable or MAX_SUB_GROUP
    bucket = min(trainable + trainable % 2, MAX_BUCKET)  # DeepSpeed asserts that it is even
    sizes = {"reduce_bucket_size": bucket}
    if strategy != "zero3":
        return sizes | {"allgather_bucket_size": bucket}
    sizes["sub_group_size"] = min(trainable, MAX_SUB_GROUP)
    if shape.parameters and shape.num_layers and shape.hidden_size:
        # The next layer is gathered while this one computes; what is smaller than ten rows stays gathered.
        sizes["stage3_prefetch_bucket_size"] = min(shape.parameters // shape.num_layers, MAX_BUCKET)
        sizes["stage3_param_persistence_threshold"] = 10 * shape.hidden_size
    return sizes


def _precision(precision: str, trains_bf16: bool, gathers_trained: bool) -> dict[str, Any]:
    """bf16 weights that are trained get fp32 masters from DeepSpeed; fp32 weights are multiplied in 16 bits under autocast.

    DeepSpeed's autocast gathers fp32 weights in 16 bits, so that no converted copy outlives them until the backward pass. Where
    there is nothing to gather, the engine's own does the same. DeepSpeed's fp16 would round the weights that are trained, and
    all that is computed with them, where autocast rounds products only.
    """
    if trains_bf16:
        return {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    if precision in HALF and gathers_trained:
        return {"torch_autocast": {"enabled": True, "dtype": COMPUTE_DTYPES[precision]}}
    return {}


def _users(recipe: Recipe) -> dict[str, Any]:
    given = recipe.distributed.deepspeed_config
    if not isinstance(given, str):
        return dict(plain(given or {}))
    try:
        read = json.loads(Path(given).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(
            f"{given} is not JSON: {error}", where=recipe.origin("distributed.deepspeed_config")
        ) from error
    if not isinstance(read, dict):
        raise RecipeError(f"{given} holds no JSON object", where=recipe.origin("distributed.deepspeed_config"))
    return read


def _merged(ours: dict[str, Any], users: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Ours, and what the user adds; `auto` leaves a value to us."""
    wrong = [f"{key} belongs to {TAKEN[key]} of the recipe" for key in users if key in TAKEN]
    for key, value in _leaves(users):
        decided, mine = DECIDED_BY.get(key), _at(ours, key)
        if value == "auto" or key.split(".")[0] in TAKEN:
            continue
        if decided and value != mine and not (mine is None and value == UNSET.get(key, False)):
            wrong.append(f"{key} is {json.dumps(value)} there, and {json.dumps(mine)} after {decided}")
    if wrong:
        raise RecipeError(
            f"distributed.deepspeed_config contradicts the recipe: {'; '.join(wrong)}",
            where=recipe.origin("distributed.deepspeed_config"),
            fix="take these keys out of it, or write auto",
        )
    return _laid_over(ours, users)


def _laid_over(ours: Mapping[str, Any], users: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(ours)
    for key, value in users.items():
        if isinstance(value, Mapping):
            below = made.get(key)
            made[key] = _laid_over(below if isinstance(below, Mapping) else {}, value)
        elif value != "auto":
            made[key] = value
    return made


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _at(tree: Any, key: str) -> Any:
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, Mapping) else None
    return tree
