"""Contradictions between keys that are each right alone, and what this version does not do yet.

To add a rule, write a generator of (key, problem) and list it in `RULES`. A feature that works leaves `UNSUPPORTED`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from launcher import parts, prompts, support
from launcher.data.augment.steps import OF_PICTURES, OF_TEXTS
from launcher.recipe import cleaning, local_files, searching
from launcher.schedules import OPTIONS
from launcher.schema import Data, Evaluation, Sections, Tokenizer
from launcher.section import Section, forget_reads, note_reads
from launcher.suggest import STAGES, did_you_mean
from launcher.task import Traits

Finding = tuple[str, str]
EVERY_TASK = (
    "train",
    "eval",
    "clean",
    "augment",
    "on_error",
    "streaming",
    "cache_dir",
)  # keys of data that all tasks use

NUMBERS_IN_MASKS = 1 << 16
SPLIT_INTO_WORDS = ("bleu", "rouge1", "rouge2", "rougeL")  # metrics that evaluation.bleu_tokenize is for

# key -> (the values that work, what to do instead)
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "data.streaming": ((False,), "rows are prepared once and read from disk, which needs little memory"),
    "slurm": ((None,), "start it with srun or sbatch, one `python -m launcher` per process"),
}


def findings(recipe: Sections, doubtful: set[str]) -> Iterator[Finding]:
    """All (dotted key, problem) of a recipe whose keys and types are right.

    `doubtful` keys have a problem already; what a rule says after reading one of them would only follow from it.
    """
    for rule in RULES:
        reads = note_reads(recipe)
        for finding in rule(recipe):
            if not reads & doubtful:
                yield finding
    forget_reads(recipe)


def _unsupported(recipe: Sections) -> Iterator[Finding]:
    for key, (working, instead) in UNSUPPORTED.items():
        value = value_at(recipe, key)
        if value not in working:
            shown = f"{value} " if isinstance(value, str | float) else ""
            yield key, f"{shown}is not supported in this version; {instead}"


def value_at(recipe: Sections, key: str) -> Any:
    """The value of a dotted key, past the read-audit; a KeyError when the recipe has no such key."""
    value: Any = recipe
    for step in key.split("."):
        value = (
            value.__dict__[step]
            if isinstance(value, Section)
            else value[step if isinstance(value, dict) else int(step)]
        )
    return value


def _model(recipe: Sections) -> Iterator[Finding]:
    model = recipe.model
    if model.name_or_path is None and model.init is None:
        yield "model", "has neither name_or_path (a pretrained model) nor init (random weights); give one of them"
    if model.name_or_path is not None and model.init is not None:
        yield "model.init", "contradicts model.name_or_path; give one of them: init starts from random weights"
    if model.init is not None and recipe.tokenizer.name_or_path is None and _reads_text(recipe):
        yield "model.init", "brings no tokenizer; give tokenizer.name_or_path"
    if isinstance(model.init, dict) and "model_type" not in model.init:
        yield "model.init", "names no architecture; add model_type, for example model_type: llama"


def _reads_text(recipe: Sections) -> bool:
    return recipe.task not in parts.names("tasks") or parts.load("tasks", recipe.task).TRAITS.processor == "tokenizer"


def _method(recipe: Sections) -> Iterator[Finding]:
    from_scratch = recipe.model.init is not None and recipe.model.name_or_path is None
    has_all = recipe.tokenizer.name_or_path is not None or not _reads_text(recipe)
    if from_scratch and recipe.method != "full" and has_all:
        yield "model.init", f"random weights are nothing to adapt; use method: full (this is method: {recipe.method})"
    if recipe.method == "full" and recipe.export.merge:
        yield "export.merge", "there is no adapter to merge under method: full"
    if recipe.method in prompts.METHODS and recipe.export.merge:
        yield "export.merge", "a prompt is no part of the weights, so it cannot be merged; set it to false"
    if recipe.method != "full" and recipe.export.dtype != "auto" and not recipe.export.merge:
        yield "export.dtype", "an adapter stays in the type in which it was trained; use auto, or export.merge: true"


def _quantization(recipe: Sections) -> Iterator[Finding]:
    section = recipe.quantization
    if section is None:
        return
    if section.quant_type is not None and (section.quant_type == "int8") != (section.bits == 8):
        has = 8 if section.quant_type == "int8" else 4
        yield (
            "quantization.quant_type",
            f"{section.quant_type} has {has} bits, and quantization.bits is {section.bits}; leave one of them out",
        )
    if section.bits == 8:
        for key, default in (("double_quant", None), ("compute_dtype", "auto")):
            if getattr(section, key) != default:
                yield f"quantization.{key}", "is for bits: 4; int8 has one scale a row, and computes as its input comes"


def _checkpointing(recipe: Sections) -> Iterator[Finding]:
    training = recipe.training
    if training.gradient_checkpointing:
        return
    if training.gradient_checkpointing_interval != 1:
        yield "training.gradient_checkpointing_interval", "needs training.gradient_checkpointing: true"
    if training.activation_offloading:
        yield (
            "training.activation_offloading",
            (
                "needs training.gradient_checkpointing: true; without it a layer keeps 15 to 27 times as much, "
                "which takes longer to move than to compute again"
            ),
        )


def _dtype(recipe: Sections) -> Iterator[Finding]:
    dtype, precision = recipe.model.dtype, recipe.training.precision
    if dtype == "fp16" and recipe.method == "full":
        yield (
            "model.dtype",
            (
                "fp16 weights cannot be trained: updates vanish, and loss scaling takes no fp16 gradients; "
                "use auto, which computes as training.precision says"
            ),
        )
    elif dtype in ("bf16", "fp16") and precision in ("fp32", "tf32"):
        yield "model.dtype", f"{dtype} weights compute in {dtype}, not in training.precision: {precision}; use auto"
    elif dtype in ("bf16", "fp16") and precision not in ("auto", dtype):
        yield "model.dtype", f"{dtype} weights would be converted to {precision} at every product; use auto"


def _combination(recipe: Sections) -> Iterator[Finding]:
    for rule in support.refusals(support.Combination.of(recipe)):
        value = value_at(recipe, rule.key)
        shown = "" if isinstance(value, Section) else f"{value}: "
        yield rule.key, f"{shown}{rule.reason}; {rule.instead}"


def _distributed(recipe: Sections) -> Iterator[Finding]:
    section = recipe.distributed
    to_disk = "nvme" in (section.offload_optimizer, section.offload_param)
    if to_disk and section.offload_dir is None:
        yield "distributed.offload_dir", "what is offloaded to nvme needs a folder on a local disk"
    if section.offload_dir is not None and not to_disk:
        yield "distributed.offload_dir", "nothing is offloaded to nvme"
    if section.strategy != "zero3":
        for key, unused in (("zero_hpz_partition_size", 1), ("zero_leaf_modules", None)):
            if getattr(section, key) != unused:
                yield f"distributed.{key}", f"is for strategy: zero3, and this is strategy: {section.strategy}"
    if section.deepspeed_config is not None and section.strategy not in support.ZERO:
        yield (
            "distributed.deepspeed_config",
            f"DeepSpeed does not run under strategy: {section.strategy}; use zero1, zero2 or zero3"
            if section.strategy != "auto"
            else "auto may choose ddp, without DeepSpeed; set distributed.strategy to zero1, zero2 or zero3",
        )


def _batch(recipe: Sections) -> Iterator[Finding]:
    training = recipe.training
    numbers = (training.global_batch_size, training.per_device_train_batch_size, training.gradient_accumulation_steps)
    if None not in numbers:
        yield (
            "training.gradient_accumulation_steps",
            (
                "global_batch_size and per_device_train_batch_size are given as well; "
                "give two of the three, the third follows from the number of processes"
            ),
        )


def _length(recipe: Sections) -> Iterator[Finding]:
    training, scheduler = recipe.training, recipe.scheduler
    if training.max_steps is None:
        return
    if training.num_train_epochs is not None:
        yield "training.max_steps", "contradicts training.num_train_epochs; give one of them"
    for key in ("warmup_steps", "decay_steps"):
        steps = getattr(scheduler, key)
        if isinstance(steps, int) and steps >= training.max_steps:
            yield f"scheduler.{key}", f"{steps} steps do not fit into training.max_steps: {training.max_steps}"
    if scheduler.name == "wsd" and isinstance(scheduler.decay_steps, int) and isinstance(scheduler.warmup_steps, int):
        both = scheduler.warmup_steps + scheduler.decay_steps
        if max(scheduler.warmup_steps, scheduler.decay_steps) < training.max_steps < both:
            yield (
                "scheduler.decay_steps",
                f"warmup and decay take {both} steps, training.max_steps is {training.max_steps}",
            )


def _scheduler(recipe: Sections) -> Iterator[Finding]:
    scheduler = recipe.scheduler
    for name in sorted({name for names in OPTIONS.values() for name in names} - set(OPTIONS.get(scheduler.name, ()))):
        if getattr(scheduler, name) is not None:
            owners = " or ".join(owner for owner, names in OPTIONS.items() if name in names)
            yield f"scheduler.{name}", f"is for name: {owners}, and this is name: {scheduler.name}"
    if scheduler.name == "reduce_on_plateau" and (not recipe.data.eval or recipe.evaluation.eval_steps is None):
        yield "scheduler.name", "reduce_on_plateau follows evaluations; give data.eval and evaluation.eval_steps"
    if scheduler.name == "one_cycle" and not scheduler.warmup_steps:
        yield "scheduler.name", "one_cycle rises first; give scheduler.warmup_steps, for example 0.3"
    if scheduler.name == "inverse_sqrt" and not scheduler.warmup_steps and scheduler.timescale is None:
        yield "scheduler.name", "inverse_sqrt falls from the end of a warmup on; give warmup_steps or timescale"
    if scheduler.name == "exponential" and scheduler.min_lr_ratio == 0:
        yield "scheduler.name", "exponential never reaches zero; give scheduler.min_lr_ratio above 0"
    if scheduler.name == "constant" and scheduler.min_lr_ratio != 0:
        yield "scheduler.min_lr_ratio", "a constant learning rate has no end value; use linear or cosine"


def _data(recipe: Sections) -> Iterator[Finding]:
    if not recipe.data.train:
        yield "data.train", "there is no training data; write train: [{path: ...}]"


def _labels(recipe: Sections) -> Iterator[Finding]:
    labels = recipe.data.labels
    if recipe.data.sampling == "balanced" and getattr(recipe.loss, "class_weights", None) == "balanced":
        yield "loss.class_weights", "data.sampling: balanced has evened out the labels already; give one of them"
    if labels is None:
        return
    if not labels:
        yield "data.labels", "lists no label; leave it out, and they are found in data.train"
    for place, value in enumerate(labels):
        key = f"data.labels.{value if isinstance(labels, dict) else place}"
        if value != value.strip():
            yield key, f'blanks around a label are no part of it in the data; write "{value.strip()}"'
        elif value in tuple(labels)[:place]:
            yield key, f"{value} is listed twice"


def _mask_numbers(recipe: Sections) -> Iterator[Finding]:
    """Where labels are numbers in masks, the keys that are none."""
    labels = recipe.data.labels
    if not isinstance(labels, dict) or recipe.task not in parts.names("tasks"):
        return
    if "ignore_index" in parts.load("tasks", recipe.task).TRAITS.data_keys:
        numbers = set(map(str, range(NUMBERS_IN_MASKS)))
        for value in filter(lambda value: value not in numbers, labels):
            yield f"data.labels.{value}", f"{value} is no number in a mask; these are 0 to {NUMBERS_IN_MASKS - 1}"


def _evaluation(recipe: Sections) -> Iterator[Finding]:
    evaluation = recipe.evaluation
    best, patience = evaluation.metric_for_best_model, evaluation.early_stopping_patience
    if not recipe.data.eval:
        for key in ("eval_steps", "metric_for_best_model", "early_stopping_patience", "per_device_eval_batch_size"):
            if getattr(evaluation, key) is not None:
                yield f"evaluation.{key}", "needs evaluation data; give data.eval"
    if best is None:
        for key, value in (("early_stopping_patience", patience), ("greater_is_better", evaluation.greater_is_better)):
            if value is not None:
                yield f"evaluation.{key}", "needs evaluation.metric_for_best_model, for example eval/loss"
        return
    if recipe.task not in parts.names("tasks"):
        return
    asked = evaluation.metrics or parts.load("tasks", recipe.task).TRAITS.default_metrics
    measured = [f"eval/{name}" for name in asked]
    if best not in measured:
        fix = did_you_mean(best, measured) or f"; measured are {', '.join(measured)}"
        yield "evaluation.metric_for_best_model", f"{best} is not measured by evaluation.metrics{fix}"


def _metrics(recipe: Sections) -> Iterator[Finding]:
    if recipe.task not in parts.names("tasks"):
        return
    traits = parts.load("tasks", recipe.task).TRAITS
    metrics = recipe.evaluation.metrics or traits.default_metrics
    for index, name in enumerate(metrics):
        if name not in traits.metrics:
            hint = did_you_mean(name, traits.metrics)
            yield (
                f"evaluation.metrics.{index}",
                f"{recipe.task} has no metric {name}{hint}; it has {', '.join(traits.metrics)}",
            )
        elif name in metrics[:index]:
            yield f"evaluation.metrics.{index}", f"{name} is listed twice"
    yield from _generation(recipe, metrics, traits)


def _generation(recipe: Sections, metrics: Sequence[str], traits: Traits) -> Iterator[Finding]:
    """Keys that do nothing unless answers are generated, or are scored."""
    scoring = {"generate_rows": traits.generated_metrics, "bleu_tokenize": SPLIT_INTO_WORDS}
    for key in ("generate_rows", "max_new_tokens", "num_beams", "bleu_tokenize"):
        if getattr(recipe.evaluation, key) == Evaluation.model_fields[key].default:
            continue
        if not traits.generated_metrics:
            yield f"evaluation.{key}", f"{recipe.task} generates nothing; take it out"
        elif key in scoring and not set(metrics) & set(scoring[key]):
            wanted = [name for name in scoring[key] if name in traits.generated_metrics]
            fix = f"add {' or '.join(wanted)} to evaluation.metrics" if wanted else "take it out"
            what = "no answer is scored" if key == "generate_rows" else "no answer is scored by its words"
            yield f"evaluation.{key}", f"{what}; {fix}"


def _noise(recipe: Sections) -> Iterator[Finding]:
    if not recipe.regularization.neftune_noise_alpha or recipe.task not in parts.names("tasks"):
        return
    if parts.load("tasks", recipe.task).TRAITS.processor != "tokenizer":
        yield (
            "regularization.neftune_noise_alpha",
            f"is for embeddings of tokens, and {recipe.task} has none; take it out",
        )


def _task_keys(recipe: Sections) -> Iterator[Finding]:
    """Keys that belong to other tasks."""
    if recipe.task not in parts.names("tasks"):
        return
    traits = parts.load("tasks", recipe.task).TRAITS
    of_labels = {"labels": traits.label_column is not None, "sampling": traits.has_label_per_row}
    own = {*EVERY_TASK, *traits.data_keys, *(name for name, holds in of_labels.items() if holds)}
    for name, field in Data.model_fields.items():
        if name not in own and getattr(recipe.data, name) != field.get_default(call_default_factory=True):
            yield f"data.{name}", f"{recipe.task} does not use it; take it out"
    if traits.processor != "tokenizer" and recipe.tokenizer != Tokenizer():
        yield "tokenizer", f"{recipe.task} reads no text; take it out"


def _augment(recipe: Sections) -> Iterator[Finding]:
    """Steps for what the task does not read."""
    if not recipe.data.augment or recipe.task not in parts.names("tasks"):
        return
    kind = parts.load("tasks", recipe.task).TRAITS.augments
    if kind is None:
        yield "data.augment", f"rows of {recipe.task} are not augmented; take it out"
        return
    known = OF_TEXTS if kind == "texts" else OF_PICTURES
    for number, step in enumerate(recipe.data.augment):
        if not isinstance(step, known):
            names = ", ".join(get_args(one.model_fields["name"].annotation)[0] for one in known)
            yield f"data.augment.{number}.name", f"{recipe.task} is learned from {kind}; there are {names}"


def _trackers(recipe: Sections) -> Iterator[Finding]:
    for index, name in enumerate(recipe.logging.trackers):
        if name not in parts.names("trackers"):
            yield f"logging.trackers.{index}", parts.unavailable("trackers", name)


def _stages(recipe: Sections) -> Iterator[Finding]:
    given = [key for key in STAGES if getattr(recipe, key)]
    for key in given[1:]:
        yield key, f"{given[0]} is given as well; give one of them"
    names = [stage.name for stage in recipe.stages]
    for number, name in enumerate(names):
        if name is not None and name in names[:number]:
            yield f"stages.{number}.name", f"{name} is the name of two stages"
    if given and given[0] != "stages" and recipe.trainable is not None:
        yield "trainable", f"{given[0]} says what is trained; use freeze for what never is, or stages"


RULES = (
    _unsupported,
    _stages,
    _model,
    _method,
    _quantization,
    _checkpointing,
    _dtype,
    _combination,
    _distributed,
    _batch,
    _length,
    _scheduler,
    _data,
    _labels,
    _mask_numbers,
    _evaluation,
    _metrics,
    _task_keys,
    _noise,
    cleaning.findings,
    _augment,
    _trackers,
    searching.findings,
    local_files.train_data,
    local_files.eval_data,
)
