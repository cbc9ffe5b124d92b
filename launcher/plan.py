"""All numbers that a run derives from its recipe and its world, each with where it came from. Pure: no torch, no files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher import (
    activation_memory,
    batch_size,
    memory,
    parts,
    precision,
    rhythm,
    schedules,
    strategy,
    weight_storage,
)
from launcher.data.context import Context
from launcher.errors import RecipeError
from launcher.memory.cards import gib
from launcher.metrics import named
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.objectives.options import insist_on_labels
from launcher.recipe import Recipe
from launcher.rhythm import OrderOf
from launcher.section import Section
from launcher.support import needs, refusals
from launcher.task import Traits
from launcher.world import World

LABELS_SHOWN = 12


@dataclass(frozen=True)
class Plan:
    """The derived numbers of one run. `origins` says for each field where its value came from."""

    name: str
    task: str
    method: str
    seed: int
    nodes: int
    processes_per_node: int
    world_size: int
    device: str
    threads_per_process: int
    strategy: str
    deepspeed: Mapping[str, Any] | None
    zero_leaf_modules: tuple[str, ...] | None
    timeout_minutes: int
    precision: str
    model_dtype: str
    quantization: str | None
    compute_dtype: str | None
    attention: str
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int | None
    activation_offloading: bool
    max_grad_norm: float | None
    l1: float
    group_lasso: float
    ema: float | None
    dropout: float | Mapping[str, float] | None
    neftune_noise_alpha: float
    global_batch_size: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    micro_batches_per_step: int
    per_device_eval_batch_size: int
    packing: bool
    max_length: int | None
    clean: tuple[str, ...]
    augment: tuple[str, ...]
    sampling: str
    labels: str | None
    train_rows: int | None
    rows_per_epoch: int | None
    steps_per_epoch: int | None
    stages: tuple[str, ...]
    stage: str | None
    first_step: int | None
    last_step: int | None
    total_steps: int | None
    schedule: str
    learning_rate: float
    warmup_steps: int | None
    schedule_options: Mapping[str, Any] | None
    min_lr_ratio: float
    eval_steps: int | None
    metrics: tuple[str, ...]
    metric_for_best_model: str | None
    greater_is_better: bool
    early_stopping_patience: int | None
    save_steps: int | None
    save_total_limit: int
    logging_steps: int
    loss: str
    model: str
    parameters: int | None
    trainable_parameters: int | None
    parameter_groups: str | None
    trainable: tuple[str, ...] | None
    freeze: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    unused_parameters: int | None
    weight_bytes_per_rank: int | None
    gradient_bytes_per_rank: int | None
    optimizer_bytes_per_rank: int | None
    communication_bytes_per_rank: int | None
    transient_bytes_per_rank: int | None
    activation_bytes_per_rank: int | None
    loss_bytes_per_rank: int | None
    overhead_bytes_per_rank: int | None
    total_bytes_per_rank: int | None
    host_bytes_per_node: int | None
    device_memory_bytes: int | None
    same_result: str
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def shards_weights(self) -> bool:
        """Whether no rank holds all weights."""
        return self.strategy == "zero3"

    @property
    def fits(self) -> bool | None:
        """Whether the card has the memory that a rank needs by estimate; None where one of the two is not known."""
        if self.total_bytes_per_rank is None or self.device_memory_bytes is None:
            return None
        return self.total_bytes_per_rank <= self.device_memory_bytes

    def rate(self, step: int) -> float:
        """The learning rate of a 0-based step of the run, where its number of steps is known."""
        assert self.last_step is not None and self.first_step is not None
        options = schedules.Options(min_lr_ratio=self.min_lr_ratio, **(self.schedule_options or {}))
        length = self.last_step - self.first_step
        shape = schedules.factor(self.schedule, step - self.first_step, length, self.warmup_steps or 0, options)
        return self.learning_rate * shape

    def as_json(self) -> dict[str, Any]:
        """name -> {value, origin}, for plan.json and `plan --json`."""
        values = asdict(self)
        values.pop("origins")
        return {"values": {key: {"value": value, "origin": self.origins[key]} for key, value in values.items()}}

    def as_text(self) -> str:
        cells = self.as_json()["values"]
        if not self.stages:
            cells = {key: cell for key, cell in cells.items() if key not in ("stages", "stage", "first_step")}
        rows = [(key, _shown(key, cell["value"]), cell["origin"]) for key, cell in cells.items()]
        wide, wider = max(len(r[0]) for r in rows), min(44, max(len(r[1]) for r in rows))
        return "\n".join(f"  {key:<{wide}}  {value:<{wider}}  {origin}" for key, value, origin in rows)


def make(
    recipe: Recipe,
    world: World,
    facts: ModelFacts | None,
    order: OrderOf | None,
    data_note: str = "",
    context: Context | None = None,
    first_step: int | None = 0,
) -> Plan:
    """Derive the plan, or that of one stage, which begins after `first_step` (None: not known).

    `order` makes the data order for a global batch size and `context` knows the labels, or both are None where the data cannot be
    read (`data_note` says why); numbers that depend on what is missing are None.
    """
    notes = Notes(recipe)
    traits: Traits = parts.load("tasks", recipe.task).TRAITS
    _identity(notes, recipe)
    _world(notes, recipe, world)
    batch_size.derive(notes, recipe, world)
    _numerics(notes, recipe, world, facts)
    _rows(notes, recipe, traits, facts)
    weight_storage.derive(notes, recipe, facts.quantized if facts else None)
    strategy.derive(notes, recipe, world, facts)
    _refuse_combination(notes, recipe, facts)
    _refuse_to_mix_one(notes, facts)
    _labels(notes, recipe, traits, context, data_note)
    rhythm.derive(notes, recipe, order, data_note, first_step)
    memory.derive(notes, recipe, facts, world.memory_bytes)
    _unused(notes, facts)
    _sameness(notes, facts)
    return Plan(**notes.values, origins=notes.origins)


def _rows(notes: Notes, recipe: Recipe, traits: Traits, facts: ModelFacts | None) -> None:
    """What a row of this task may be; refuses rows that are longer than the model can take."""
    notes.take("clean", "data.clean", tuple(map(_step_in_words, recipe.data.clean)))
    notes.take("augment", "data.augment", tuple(map(_step_in_words, recipe.data.augment)))
    notes.take("sampling", "data.sampling", recipe.data.sampling)
    if traits.packs:
        notes.take("packing", "data.packing", recipe.data.packing)
    else:
        notes.put("packing", False, f"{recipe.task} has one example a row")
    if "max_length" not in traits.data_keys:
        notes.put("max_length", None, f"{recipe.task} has no sequences of tokens")
        return
    notes.take("max_length", "data.max_length", recipe.data.max_length)
    limit = facts.max_positions if facts else None
    for key in ("max_length", "max_target_length"):
        asked = getattr(recipe.data, key) if key in traits.data_keys else 0
        prompt = getattr(recipe.adapter, "num_virtual_tokens", 0)
        if limit is not None and asked + prompt > limit:
            both = f"{asked} and {prompt} of the prompt are" if prompt else f"{asked} is"
            raise RecipeError(
                f"data.{key}: {both} more than the {limit} positions of the model",
                where=recipe.origin(f"data.{key}"),
                fix=f"set data.{key}={limit - prompt}" if limit > prompt else "",
            )


def _step_in_words(step: Section) -> str:
    """`rotation: probability 1.0, degrees 15.0`"""
    keys = step.model_dump(mode="json", exclude_none=True)
    name = keys.pop("name")
    return f"{name}: {', '.join(f'{key} {value}' for key, value in keys.items())}" if keys else str(name)


def _labels(notes: Notes, recipe: Recipe, traits: Traits, context: Context | None, data_note: str) -> None:
    """`3: negative 203, neutral 20, positive 197`: how often each occurs in data.train, in the model's order."""
    if traits.label_column is None:
        notes.put("labels", None, f"{recipe.task} has no labels")
    elif context is None or context.labels is None:
        notes.put("labels", None, f"unknown: {data_note}")
    else:
        if isinstance(weights := getattr(recipe.loss, "class_weights", None), Mapping):
            insist_on_labels(weights, context.labels)
        counted = zip(context.labels.names, context.label_counts, strict=True)
        shown = named([f"{name} {count:,}" for name, count in counted], LABELS_SHOWN)
        listed = recipe.origin("data.labels") if recipe.data.labels is not None else "found"
        notes.put("labels", f"{len(context.labels)}: {shown}", f"{listed}; counted in data.train")


def _identity(notes: Notes, recipe: Recipe) -> None:
    notes.take("name", "name", recipe.name)
    notes.take("task", "task", recipe.task)
    notes.take("method", "method", recipe.method)
    notes.take("seed", "seed", recipe.seed)
    notes.take("trainable", "trainable", recipe.trainable)
    notes.take("freeze", "freeze", recipe.freeze)


def _world(notes: Notes, recipe: Recipe, world: World) -> None:
    notes.put("nodes", world.nodes, "the world")
    notes.put("processes_per_node", world.processes_per_node, "the world")
    notes.put("world_size", world.size, "computed: nodes x processes_per_node")
    notes.put("device", world.device, "the world")
    threads = max(1, world.cores_per_node // world.processes_per_node)
    notes.put("threads_per_process", threads, f"computed: {world.cores_per_node} cores / processes_per_node")
    notes.take("timeout_minutes", "distributed.timeout_minutes", recipe.distributed.timeout_minutes)


def _numerics(notes: Notes, recipe: Recipe, world: World, facts: ModelFacts | None) -> None:
    precision.derive(notes, recipe, world)
    _attention(notes, recipe, facts)
    activation_memory.derive(notes, recipe, facts.recomputable_layers if facts else None)
    notes.take("max_grad_norm", "training.max_grad_norm", recipe.training.max_grad_norm)
    for name in ("l1", "group_lasso", "ema", "dropout", "neftune_noise_alpha"):
        notes.take(name, f"regularization.{name}", getattr(recipe.regularization, name))


def _attention(notes: Notes, recipe: Recipe, facts: ModelFacts | None) -> None:
    if recipe.model.attn_implementation is not None:
        notes.take("attention", "model.attn_implementation", recipe.model.attn_implementation)
    elif facts is None or facts.attention == "sdpa":
        notes.put("attention", "sdpa", "auto: PyTorch's own")
    else:
        notes.put("attention", facts.attention, f"auto: {facts.architecture} has no sdpa")


def _refuse_combination(notes: Notes, recipe: Recipe, facts: ModelFacts | None) -> None:
    """With what auto became, and on this device."""
    became = {"strategy": notes["strategy"], "precision": notes["precision"]}
    combination = weight_storage.combination(recipe, facts.quantized if facts else None, **became)
    lacking = needs(combination) if notes["device"] == "cpu" else ()
    for rule in (*refusals(combination), *lacking):
        missing = f", and there is no {rule.hardware}" if rule.hardware else ""
        raise RecipeError(f"{rule.key}: {rule.reason}{missing}", where=recipe.origin(rule.key), fix=rule.instead)
    if notes["strategy"] == "zero3" and facts is not None and "ParametrizationList" in facts.module_classes:
        raise RecipeError(
            f"distributed.strategy: zero3: transformers cannot load {facts.architecture}, which has normalised weights, in shards",
            where=recipe.origin("distributed.strategy"),
            fix="use zero2",
        )


def _refuse_to_mix_one(notes: Notes, facts: ModelFacts | None) -> None:
    if facts is not None and facts.loss_mixes_rows and notes["per_device_train_batch_size"] == 1:
        raise RecipeError(
            f"loss: {facts.loss} mixes rows of a micro-batch, and per_device_train_batch_size is 1",
            where=notes.recipe.origin("loss"),
            fix="set training.per_device_train_batch_size to 8 or more",
        )


def _unused(notes: Notes, facts: ModelFacts | None) -> None:
    """Trained tensors that get no gradient, for which ddp would wait."""
    if facts is None or facts.unused is None:
        notes.put("unused_parameters", None, "looked for in models of pictures")
        return
    first = f"{facts.unused[0]} for one" if facts.unused else "the outputs depend on all that is trained"
    notes.put("unused_parameters", len(facts.unused), f"found on the shapes: {first}")


def _sameness(notes: Notes, facts: ModelFacts | None) -> None:
    why = None
    if facts is not None and (found := _by_micro_batch(facts, notes.recipe)):
        why = f"the model has {' and '.join(found)}"
    elif (
        facts is not None
        and facts.quantized is not None
        and facts.quantized.quant_type == "int8"
        and notes["device"] != "cpu"
    ):
        why = "int8 layers compute columns with outliers apart, in whole micro-batches"
    if why:
        text = f"equal on any number of ranks for the same per_device_train_batch_size ({why})"
    else:
        text = "equal to rounding however global_batch_size is sliced (no dropout)"
    if notes["precision"] == "fp16":
        text += "; fp16 may skip other steps with another per_device_train_batch_size"
    notes.put("same_result", text, "computed: from the model's dropout and layers, and the precision")


def _by_micro_batch(facts: ModelFacts, recipe: Recipe) -> list[str]:
    """What makes a result depend on which rows share a micro-batch."""
    reasons = {
        "dropout": facts.has_dropout,
        "batch statistics": facts.has_batch_norm,
        "noise": recipe.regularization.neftune_noise_alpha > 0,
        "mixed rows": facts.loss_mixes_rows,
    }
    return [name for name, holds in reasons.items() if holds]


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "schedule_options":
        return ", ".join(f"{name} {number:,}" for name, number in value.items()) or "-"
    if isinstance(value, tuple):
        return ("; " if key in ("stages", "clean", "augment") else ", ").join(map(str, value)) or "-"
    if "_bytes" in key:
        return f"{gib(value)} GiB ({value:,})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)
