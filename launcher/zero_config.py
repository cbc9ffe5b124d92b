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
from launcher.zero_keys import TAKEN, misfits, shown

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
    "fp16.enabled": "training.precision (the launcher scales the loss by itself)",
    "torch_autocast.enabled": "training.precision",
    "torch_autocast.dtype": "training.precision",
    "train_batch_size": "training.global_batch_size (the launcher accumulates by itself)",
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size (the launcher accumulates by itself)",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps (the launcher accumulates by itself)",
    "zero_allow_untested_optimizer": "optimizer.name",
    "zero_force_ds_cpu_optimizer": "optimizer.name",
}
# Sections that are as good as missing with this value of this key, whatever else they say.
SWITCHES = {
    "bf16": ("enabled", False),
    "fp16": ("enabled", False),
    "torch_autocast": ("enabled", False),
    "zero_optimization.offload_optimizer": ("device", "none"),
    "zero_optimization.offload_param": ("device", "none"),
}
UNSET = {"zero_optimization.zero_hpz_partition_size": 1}  # what a key says that we leave out, instead of false
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
    zero |= _offload(recipe) | _plus_plus(recipe, world_size) | _sizes(strategy, shape)
    if recipe.distributed.zero_leaf_modules is not None:  # DeepSpeed has classes of its own for what says nothing
        zero["leaf_module"] = {"classes": list(recipe.distributed.zero_leaf_modules)}
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


def _plus_plus(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """ZeRO++ (Wang et al., arXiv:2306.10209)."""
    section = recipe.distributed
    neighbours = section.zero_hpz_partition_size if world_size > 1 else 1  # one rank has all weights anyway
    if world_size % neighbours:
        raise RecipeError(
            f"distributed.zero_hpz_partition_size: {neighbours} does not divide the {world_size} ranks into equal groups",
            where=recipe.origin("distributed.zero_hpz_partition_size"),
            fix=f"use {' or '.join(str(size) for size in range(2, world_size + 1) if world_size % size == 0)}",
        )
    made = {
        "zero_quantized_weights": section.zero_quantized_weights,
        "zero_quantized_gradients": section.zero_quantized_gradients,
        "zero_hpz_partition_size": neighbours if neighbours > 1 else None,
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
    """What the user brings, with keys and values that DeepSpeed understands."""
    given, where = recipe.distributed.deepspeed_config, recipe.origin("distributed.deepspeed_config")
    read = _read(given, where) if isinstance(given, str) else dict(plain(given or {}))
    if wrong := list(misfits(read)):
        raise RecipeError(f"distributed.deepspeed_config: {'; '.join(wrong)}", where=where)
    return read


def _read(path: str, where: str) -> dict[str, Any]:
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}", where=where) from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}", where=where) from error
    if not isinstance(read, dict):
        raise RecipeError(f"{path} holds no JSON object", where=where)
    return read


def _merged(ours: dict[str, Any], users: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Ours, and what the user adds."""
    said = _said(users, ours)
    wrong = [f"{key} belongs to {TAKEN[key]} of the recipe" for key in _keys(users) if key in TAKEN]
    wrong += [text for key, value in _leaves(said) for text in _contradiction(ours, key, value)]
    if wrong:
        raise RecipeError(
            f"distributed.deepspeed_config contradicts the recipe: {'; '.join(wrong)}",
            where=recipe.origin("distributed.deepspeed_config"),
            fix="take these keys out of it, or write auto",
        )
    return _laid_over(ours, said)


def _said(users: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Without `auto` and null, which leave a value to us, and without sections that are off and that we do not have."""
    said: dict[str, Any] = {}
    for name, value in users.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            if name in ours or not _is_off(key, value):
                said[name] = _said(value, ours.get(name, {}), f"{key}.")
        elif value not in ("auto", None):
            said[name] = value
    return {name: value for name, value in said.items() if value != {}}


def _is_off(key: str, section: Mapping[str, Any]) -> bool:
    switch, off = SWITCHES.get(key, ("", None))
    return switch in section and section[switch] == off


def _contradiction(ours: Mapping[str, Any], key: str, value: Any) -> Iterator[str]:
    section, mine, decided = key.rpartition(".")[0], _at(ours, key), DECIDED_BY.get(key)
    if section in SWITCHES and _at(ours, section) is None:
        decided = DECIDED_BY[f"{section}.{SWITCHES[section][0]}"]
    elif mine is None and value == UNSET.get(key, False):
        return
    if decided and value != mine:
        after = "left out" if mine is None else shown(mine)
        yield f"{key} is {shown(value)} there, and {after} after {decided}"


def _laid_over(ours: Mapping[str, Any], users: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(ours)
    for key, value in users.items():
        made[key] = _laid_over(made.get(key, {}), value) if isinstance(value, Mapping) else value
    return made


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


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
