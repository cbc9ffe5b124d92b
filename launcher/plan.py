"""All numbers that a run derives from its recipe and its world, each with where it came from. Pure: no torch, no files."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from launcher import activation_memory, batch_size, parts, precision, weight_storage, zero_config
from launcher.data.order import Order
from launcher.errors import RecipeError
from launcher.notes import Notes
from launcher.recipe import Recipe
from launcher.support import Combination, needs
from launcher.weight_storage import Quantized
from launcher.world import World

OrderOf = Callable[[int], Order]  # from a global batch size
LossWay = Callable[[int, str, str, str], str]  # from tokens a micro-batch, precision, model_dtype and device
LOWER_IS_BETTER = ("loss", "perplexity")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class ModelFacts:
    """What the shapes alone tell of a model with its adapter; no weight is read for it."""

    architecture: str
    parameters: int
    trainable: int
    max_positions: int | None
    has_dropout: bool
    loss: str
    loss_reason: str
    source: str
    loss_way: LossWay | None = None
    quantized: Quantized | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    trained: tuple[tuple[tuple[int, ...], bool], ...] = ()
    """Of each trained tensor: its shape, and whether it is a hidden matrix."""
    recomputable_layers: int | None = None


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
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int | None
    activation_offloading: bool
    max_grad_norm: float | None
    global_batch_size: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    micro_batches_per_step: int
    per_device_eval_batch_size: int
    packing: bool
    max_length: int
    train_rows: int | None
    rows_per_epoch: int | None
    steps_per_epoch: int | None
    total_steps: int | None
    schedule: str
    learning_rate: float
    warmup_steps: int | None
    decay_steps: int | None
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
    weight_bytes_per_rank: int | None
    gradient_bytes_per_rank: int | None
    optimizer_bytes_per_rank: int | None
    same_result: str
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def shards_weights(self) -> bool:
        """Whether no rank holds all weights."""
        return self.strategy == "zero3"

    def as_json(self) -> dict[str, Any]:
        """name -> {value, origin}, for plan.json and `plan --json`."""
        values = asdict(self)
        values.pop("origins")
        return {"values": {key: {"value": value, "origin": self.origins[key]} for key, value in values.items()}}

    def as_text(self) -> str:
        rows = [(key, _shown(cell["value"]), cell["origin"]) for key, cell in self.as_json()["values"].items()]
        wide, wider = max(len(r[0]) for r in rows), min(44, max(len(r[1]) for r in rows))
        return "\n".join(f"  {key:<{wide}}  {value:<{wider}}  {origin}" for key, value, origin in rows)


def make(recipe: Recipe, world: World, facts: ModelFacts | None, order: OrderOf | None, data_note: str = "") -> Plan:
    """Derive the plan. `order` makes the data order for a global batch size, or is None where the data cannot be read
    (`data_note` says why); numbers that depend on what is missing are None."""
    notes = Notes(recipe)
    _refuse_too_long(recipe, facts)
    _identity(notes, recipe)
    _world(notes, recipe, world)
    batch_size.derive(notes, recipe, world)
    _numerics(notes, recipe, world, facts)
    weight_storage.derive(notes, recipe, facts.quantized if facts else None)
    _refuse_without_hardware(notes, recipe)
    _zero(notes, recipe, facts)
    _steps(notes, recipe, order, data_note)
    _rhythm(notes, recipe)
    _memory(notes, facts)
    _sameness(notes, facts)
    return Plan(**notes.values, origins=notes.origins)


def _refuse_too_long(recipe: Recipe, facts: ModelFacts | None) -> None:
    limit = facts.max_positions if facts else None
    if limit is not None and recipe.data.max_length > limit:
        raise RecipeError(
            f"data.max_length: {recipe.data.max_length} is more than the {limit} positions of the model",
            where=recipe.origin("data.max_length"),
        )


def _identity(notes: Notes, recipe: Recipe) -> None:
    notes.take("name", "name", recipe.name)
    notes.take("task", "task", recipe.task)
    notes.take("method", "method", recipe.method)
    notes.take("seed", "seed", recipe.seed)


def _world(notes: Notes, recipe: Recipe, world: World) -> None:
    notes.put("nodes", world.nodes, "the world")
    notes.put("processes_per_node", world.processes_per_node, "the world")
    notes.put("world_size", world.size, "computed: nodes x processes_per_node")
    notes.put("device", world.device, "the world")
    threads = max(1, world.cores_per_node // world.processes_per_node)
    notes.put("threads_per_process", threads, f"computed: {world.cores_per_node} cores / processes_per_node")
    strategy = recipe.distributed.strategy
    if strategy == "auto":
        notes.put("strategy", "ddp" if world.size > 1 else "none", "auto: ddp for more than one process, else none")
    elif strategy == "none" and world.size > 1:
        raise RecipeError(
            f"distributed.strategy none trains one process, but there are {world.size}",
            where=recipe.origin("distributed.strategy"),
            fix="use auto or ddp",
        )
    else:
        notes.take("strategy", "distributed.strategy", strategy)
    notes.take("timeout_minutes", "distributed.timeout_minutes", recipe.distributed.timeout_minutes)


def _numerics(notes: Notes, recipe: Recipe, world: World, facts: ModelFacts | None) -> None:
    precision.derive(notes, recipe, world)
    activation_memory.derive(notes, recipe, facts.recomputable_layers if facts else None)
    notes.take("max_grad_norm", "training.max_grad_norm", recipe.training.max_grad_norm)
    notes.take("packing", "data.packing", recipe.data.packing)
    notes.take("max_length", "data.max_length", recipe.data.max_length)


def _refuse_without_hardware(notes: Notes, recipe: Recipe) -> None:
    combination = replace(Combination.of(recipe), strategy=notes["strategy"], precision=notes["precision"])
    if rule := next(needs(combination), None) if notes["device"] == "cpu" else None:
        raise RecipeError(
            f"{rule.key}: {rule.reason}, and there is no {rule.hardware}",
            where=recipe.origin(rule.key),
            fix=rule.instead,
        )


def _zero(notes: Notes, recipe: Recipe, facts: ModelFacts | None) -> None:
    """DeepSpeed's configuration, or None where it is not used."""
    section, strategy = recipe.distributed, notes["strategy"]
    if strategy not in zero_config.STAGES:
        notes.put("deepspeed", None, "only for zero1, zero2 and zero3")
        notes.put("zero_leaf_modules", None, "only for zero3")
        return
    trains_bf16 = recipe.method == "full" and notes["model_dtype"] == "bf16"
    shape = facts and zero_config.Shape(facts.parameters, facts.trainable, facts.num_layers, facts.hidden_size)
    made = zero_config.make(
        recipe, strategy, notes["world_size"], notes["precision"], trains_bf16, shape or zero_config.Shape()
    )
    origin = "computed: from the recipe"
    if section.deepspeed_config is not None:
        origin += f", and distributed.deepspeed_config ({recipe.origin('distributed.deepspeed_config')})"
    notes.put("deepspeed", made, origin)
    notes.take("zero_leaf_modules", "distributed.zero_leaf_modules", section.zero_leaf_modules)


def _steps(notes: Notes, recipe: Recipe, order_of: OrderOf | None, data_note: str) -> None:
    epochs, max_steps = recipe.training.num_train_epochs, recipe.training.max_steps
    order: Order | None = order_of(notes["global_batch_size"]) if order_of else None
    if order is None:
        for name in ("train_rows", "rows_per_epoch", "steps_per_epoch"):
            notes.put(name, None, f"unknown: {data_note}")
    else:
        notes.put("train_rows", len(order.lengths), "counted: prepared examples")
        packed = f"packed to at most {order.capacity} tokens" if order.capacity else "one example each"
        notes.put("rows_per_epoch", len(order.units(0)), f"computed: {packed}")
        notes.put("steps_per_epoch", order.steps_in(0), "computed: rows_per_epoch / global_batch_size, rounded up")
    if max_steps is not None:
        notes.take("total_steps", "training.max_steps", max_steps)
    elif order is None:
        notes.put("total_steps", None, f"unknown: {data_note}")
    else:
        notes.put("total_steps", order.total_steps(epochs or 1.0), f"computed: {epochs or 1.0:g} epochs")


def _rhythm(notes: Notes, recipe: Recipe) -> None:
    total = notes["total_steps"]
    scheduler = recipe.scheduler
    notes.take("schedule", "scheduler.name", scheduler.name)
    notes.take("learning_rate", "optimizer.learning_rate", recipe.optimizer.learning_rate)
    _share(notes, "warmup_steps", "scheduler.warmup_steps", scheduler.warmup_steps, total, least=0)
    if scheduler.name == "wsd":
        decay = 0.2 if scheduler.decay_steps is None else scheduler.decay_steps
        _share(notes, "decay_steps", "scheduler.decay_steps", decay, total)
    else:
        notes.put("decay_steps", None, "only for wsd")
    notes.take("min_lr_ratio", "scheduler.min_lr_ratio", scheduler.min_lr_ratio)
    _share(notes, "eval_steps", "evaluation.eval_steps", recipe.evaluation.eval_steps, total)
    _judging(notes, recipe)
    _share(notes, "save_steps", "checkpoint.save_steps", recipe.checkpoint.save_steps, total)
    notes.take("save_total_limit", "checkpoint.save_total_limit", recipe.checkpoint.save_total_limit)
    notes.take("logging_steps", "logging.logging_steps", recipe.logging.logging_steps)


def _judging(notes: Notes, recipe: Recipe) -> None:
    section = recipe.evaluation
    notes.take("metrics", "evaluation.metrics", section.metrics)
    metric = notes.take("metric_for_best_model", "evaluation.metric_for_best_model", section.metric_for_best_model)
    if section.greater_is_better is None:
        greater = metric is not None and metric.removeprefix("eval/") not in LOWER_IS_BETTER
        notes.put("greater_is_better", greater, "known for our own metrics")
    else:
        notes.take("greater_is_better", "evaluation.greater_is_better", section.greater_is_better)
    notes.take("early_stopping_patience", "evaluation.early_stopping_patience", section.early_stopping_patience)


def _share(notes: Notes, name: str, key: str, value: float | None, total: int | None, least: int = 1) -> None:
    """A number of steps, or below 1 a share of all steps."""
    if value is None:
        notes.put(name, None, "default: only at the end")
    elif value >= 1 or value == 0:
        notes.take(name, key, int(value))
    elif total is None:
        notes.put(name, None, "unknown: a share of total_steps")
    else:
        origin = f"computed: {value:g} of total_steps ({notes.recipe.origin(key)})"
        notes.put(name, max(least, round(value * total)), origin)


def _memory(notes: Notes, facts: ModelFacts | None) -> None:
    """Bytes a rank holds whatever the batch: weights, gradients and the optimizer's state (unsharded)."""
    if facts is None:
        for name in ("parameters", "trainable_parameters", "weight_bytes_per_rank", "gradient_bytes_per_rank"):
            notes.put(name, None, "unknown: the model's configuration cannot be read")
        notes.put("optimizer_bytes_per_rank", None, "unknown: the model's configuration cannot be read")
        notes.put("loss", "auto", "chosen when the model is loaded")
        notes.put("model", "unknown", "the model's configuration cannot be read")
        return
    size = BYTES[notes["model_dtype"]]
    trained = 4 if notes["method"] != "full" else size
    notes.put("loss", facts.loss, _loss_reason(notes, facts))
    notes.put("model", facts.architecture, facts.source)
    notes.put("parameters", facts.parameters, "counted on the shapes")
    notes.put("trainable_parameters", facts.trainable, "counted on the shapes")
    frozen_bytes = (facts.parameters - facts.trainable) * size
    if facts.quantized is not None:
        frozen_bytes = facts.quantized.weight_bytes(notes["model_dtype"])
    notes.put("weight_bytes_per_rank", frozen_bytes + facts.trainable * trained, "computed: parameters x their bytes")
    notes.put("gradient_bytes_per_rank", facts.trainable * trained, "computed: trainable x their bytes")
    options = notes.recipe.optimizer
    part = parts.load("optimizers", options.name)
    state = sum(part.state_bytes(options, shape, trained, hidden) for shape, hidden in facts.trained)
    notes.put("optimizer_bytes_per_rank", state, f"computed: what {options.name} keeps of each trained tensor")


def _loss_reason(notes: Notes, facts: ModelFacts) -> str:
    """Why this loss, and how it goes through the vocabulary when every position has a label."""
    if facts.loss_way is None:
        return facts.loss_reason
    rows = notes["per_device_train_batch_size"] * notes["max_length"]
    way = facts.loss_way(rows, notes["precision"], notes["model_dtype"], notes["device"])
    return f"{facts.loss_reason}; {way}"


def _sameness(notes: Notes, facts: ModelFacts | None) -> None:
    why = None
    if facts is not None and facts.has_dropout:
        why = "the model has dropout"
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


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)
