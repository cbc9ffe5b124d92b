"""The keys of DeepSpeed 0.19 that a user's own configuration may have, and what their values are. Pure: no torch, no DeepSpeed.

`auto` is right everywhere. DeepSpeed itself ignores a misspelt section, and ends with a traceback on a misspelt key below one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from launcher.suggest import did_you_mean


@dataclass(frozen=True)
class Kind:
    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _one_of(*names: str) -> Kind:
    return Kind(" or ".join(names), lambda value: value in names)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number, 0 or more", _is_whole)
POSITIVE = Kind("a whole number, 1 or more", lambda value: _is_whole(value) and value >= 1)
EVEN = Kind("an even whole number, 0 or more", lambda value: _is_whole(value) and value % 2 == 0)
NUMBER = Kind("a number, 0 or more", lambda value: _is_number(value) and value >= 0)
TEXT = Kind("text", lambda value: isinstance(value, str))
TEXT_OR_NULL = Kind("text or null", lambda value: value is None or isinstance(value, str))
NAMES = Kind("a list of names", lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value))
DEVICE = _one_of("none", "cpu", "nvme")
DTYPE = _one_of("fp32", "bf16", "fp16")

OFFLOADED: dict[str, Any] = {
    "device": DEVICE,
    "nvme_path": TEXT_OR_NULL,
    "buffer_count": WHOLE,
    "pin_memory": FLAG,
}
ZERO: dict[str, Any] = {
    "stage": WHOLE,
    "offload_param": {**OFFLOADED, "buffer_size": WHOLE, "max_in_cpu": WHOLE},
    "offload_optimizer": {
        **OFFLOADED,
        **dict.fromkeys(("pipeline_read", "pipeline_write", "fast_init", "super_offload"), FLAG),
        **dict.fromkeys(("ratio", "cpuadam_cores_perc"), NUMBER),
    },
    "reduce_bucket_size": POSITIVE,
    "allgather_bucket_size": EVEN,
    **dict.fromkeys(
        (
            "sub_group_size",
            "stage3_prefetch_bucket_size",
            "stage3_param_persistence_threshold",
            "stage3_model_persistence_threshold",
            "stage3_max_live_parameters",
            "stage3_max_reuse_distance",
            "stage3_module_granularity_threshold",
            "zero_hpz_partition_size",
        ),
        WHOLE,
    ),
    **dict.fromkeys(
        (
            "contiguous_gradients",
            "reduce_scatter",
            "use_multi_rank_bucket_allreduce",
            "allgather_partitions",
            "overlap_comm",
            "compute_grad_norm",
            "load_from_fp32_weights",
            "elastic_checkpoint",
            "stage3_gather_16bit_weights_on_model_save",
            "stage3_use_all_reduce_for_fetch_params",
            "stage3_allgather_sequential",
            "ignore_unused_parameters",
            "legacy_stage1",
            "round_robin_gradients",
            "parameter_alignment",
            "zero_quantized_weights",
            "zero_quantized_nontrainable_weights",
            "zero_quantized_gradients",
            "memory_efficient_linear",
            "override_module_apply",
            "pipeline_loading_checkpoint",
            "log_trace_cache_warnings",
            "enable_sanity_checks",
            "save_muon_momentum_buffer_in_memory",
        ),
        FLAG,
    ),
}
KNOWN: dict[str, Any] = {
    "zero_optimization": ZERO,
    "bf16": {
        **dict.fromkeys(("enabled", "immediate_grad_update", "check_grad_overflow"), FLAG),
        **dict.fromkeys(("bf16_master_weights_and_grads", "bf16_optimizer_states"), FLAG),
    },
    "fp16": {
        **dict.fromkeys(("enabled", "auto_cast", "consecutive_hysteresis", "fp16_master_weights_and_grads"), FLAG),
        **dict.fromkeys(("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis"), NUMBER),
        "min_loss_scale": NUMBER,
    },
    "torch_autocast": {"enabled": FLAG, "dtype": TEXT, "lower_precision_safe_modules": NAMES},
    "data_types": {"grad_accum_dtype": DTYPE, "buffer_dtype": DTYPE, "keep_in_fp32_modules": NAMES},
    "communication_data_type": DTYPE,
    "gradient_clipping": NUMBER,
    "gradient_predivide_factor": NUMBER,
    "gradient_allreduce_op": _one_of("mean", "sum"),
    "steps_per_print": POSITIVE,
    "log_level": _one_of("debug", "info", "warning", "error", "critical"),
    **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), POSITIVE),
    **dict.fromkeys(
        (
            "wall_clock_breakdown",
            "memory_breakdown",
            "dump_state",
            "disable_python_gc",
            "prescale_gradients",
            "managed_gradient_accumulation",
            "zero_allow_untested_optimizer",
            "zero_force_ds_cpu_optimizer",
        ),
        FLAG,
    ),
    "comms_logger": {**dict.fromkeys(("enabled", "prof_all", "verbose", "debug"), FLAG), "prof_ops": NAMES},
    "flops_profiler": {
        **dict.fromkeys(("enabled", "detailed"), FLAG),
        **dict.fromkeys(("profile_step", "top_modules"), WHOLE),
        "module_depth": Kind("a whole number, or -1 for all", lambda value: value == -1 or _is_whole(value)),
        "recompute_fwd_factor": NUMBER,
        "output_file": TEXT_OR_NULL,
    },
    "timers": {"throughput": dict.fromkeys(("enabled", "synchronized"), FLAG)},
    "aio": {
        **dict.fromkeys(("block_size", "queue_depth", "intra_op_parallelism"), POSITIVE),
        **dict.fromkeys(("single_submit", "overlap_events", "use_gds"), FLAG),
    },
}
# Sections and keys of DeepSpeed that would do what a section of the recipe does.
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
    "dataloader_drop_last": "data",
    "checkpoint": "checkpoint",
    "data_types.param_dtype": "model.dtype",
    "zero_optimization.cpu_offload": "distributed.offload_optimizer",
    "zero_optimization.cpu_offload_param": "distributed.offload_param",
    "zero_optimization.cpu_offload_use_pin_memory": "distributed.offload_optimizer and distributed.offload_param",
    "zero_optimization.leaf_module": "distributed.zero_leaf_modules",
}
NO_MODEL_PARALLEL = "every rank computes its own rows with the whole model"
REMOVED = "DeepSpeed has removed it"
# What cannot work here, and why.
REFUSED = {
    **dict.fromkeys(
        (
            "tensor_parallel",
            "pipeline",
            "sequence_parallel_size",
            "expert_parallel",
            "seq_parallel_communication_data_type",
        ),
        NO_MODEL_PARALLEL,
    ),
    **dict.fromkeys(
        (
            "compression_training",
            "quantize_training",
            "elasticity",
            "eigenvalue",
            "graph_harvesting",
            "nebula",
            "progressive_layer_drop",
            "sparse_attention",
            "sparse_gradients",
        ),
        REMOVED,
    ),
    "bfloat16": "its name is bf16, which training.precision and model.dtype decide",
    "compile": "the launcher compiles nothing",
    "hybrid_engine": "it is for generation while training",
    "weight_quantization": "it is for inference; method: qlora quantises the weights",
    "zero_optimization.zenflow": "it updates with an optimizer of its own",
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": "its name is stage3_gather_16bit_weights_on_model_save",
}
# Values other than these cannot work here, and why.
ONLY = {
    "gradient_allreduce_op": ("mean", "a loss is a mean over all ranks"),
    "gradient_predivide_factor": (1, "DeepSpeed has it for runs without ZeRO"),
    "prescale_gradients": (False, "DeepSpeed has it for runs without ZeRO"),
    "managed_gradient_accumulation": (True, "the launcher tells DeepSpeed where a step ends"),
    "bf16.bf16_master_weights_and_grads": (False, "bf16 weights are trained through fp32 copies"),
    "bf16.bf16_optimizer_states": (False, "bf16 weights are trained through fp32 copies"),
    "zero_optimization.compute_grad_norm": (True, "the norm is what tells a step that is not finite"),
    "zero_optimization.stage3_module_granularity_threshold": (0, "name leaves in distributed.zero_leaf_modules"),
    "zero_optimization.legacy_stage1": (False, REMOVED),
    "zero_optimization.zero_quantized_nontrainable_weights": (
        False,
        "weights could not be read back for a checkpoint; method: qlora quantises the base",
    ),
    "zero_optimization.offload_optimizer.ratio": (1, "DeepSpeed would update the rest with an AdamW of its own"),
    "zero_optimization.offload_optimizer.super_offload": (False, "it updates with an optimizer of DeepSpeed's own"),
}


def misfits(users: Mapping[str, Any], known: Mapping[str, Any] = KNOWN, prefix: str = "") -> Iterator[str]:
    """What is wrong with a user's configuration whatever the recipe says; keys in `TAKEN` are passed over."""
    for name, value in users.items():
        key = f"{prefix}{name}"
        if key in TAKEN:
            continue
        if key in REFUSED:
            yield f"{key} cannot be used: {REFUSED[key]}"
        elif name not in known:
            yield f"{key} is no key of DeepSpeed's that the launcher takes{did_you_mean(str(name), known)}"
        elif isinstance(known[name], Kind):
            yield from _misfit(key, value, known[name])
        elif not isinstance(value, Mapping):
            yield f"{key} is {shown(value)}, and not a section with keys below it"
        else:
            yield from misfits(value, known[name], f"{key}.")


def _misfit(key: str, value: Any, kind: Kind) -> Iterator[str]:
    if value == "auto":
        return
    if not kind.fits(value):
        yield f"{key} is {shown(value)}, and not {kind.words}"
    elif key in ONLY and value != ONLY[key][0]:
        yield f"{key} cannot be {shown(value)}: {ONLY[key][1]}"


def shown(value: Any) -> str:
    return json.dumps(value, default=str)
