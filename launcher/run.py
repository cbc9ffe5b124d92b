"""From a recipe to everything that a run needs, in the one order in which it must happen.

Data is prepared before any process group exists, so that nobody waits for a collective while another tokenises.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from launcher import (
    activations,
    checkpoint,
    continuity,
    log,
    model,
    noise,
    param_groups,
    parts,
    plateau,
    processor,
    quantize,
    saved_state,
    selection,
    stages,
)
from launcher.batch_norm import BatchNorms
from launcher.checkpoint import Checkpoint
from launcher.data import labels
from launcher.data.augment.pipeline import Augmentation
from launcher.data.context import Context
from launcher.data.digest import weights_digest
from launcher.data.order import Order, Unit
from launcher.data.prepare import Joined
from launcher.engine import Engine
from launcher.errors import CheckpointError, RecipeError
from launcher.evaluate import Exam, Verdict, insist_on_asked
from launcher.meter import Meter
from launcher.model_facts import ModelFacts
from launcher.output import Place
from launcher.plan import Plan
from launcher.recipe import Recipe
from launcher.rows import Reader
from launcher.section import plain
from launcher.world import World

JUDGED_BY = ("metrics", "metric_for_best_model", "greater_is_better")


@dataclass
class Progress:
    """Where a run stands; the part of it that a checkpoint keeps besides weights. `seen`: tokens, or what else the task counts."""

    step: int = 0
    seen: int = 0
    skipped_steps: int = 0  # whose gradients overflowed fp16
    best_value: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    plateau_best: float | None = None  # of reduce_on_plateau: see `launcher.plateau`
    plateau_waited: int = 0
    plateau_factor: float = 1.0
    stopped_early: bool = False


@dataclass
class Prepared:
    """What can be known without a model: the plan, the rows and their order, and what makes batches of them."""

    recipe: Recipe
    task: ModuleType
    context: Context
    train: Joined
    eval: Joined | None
    order: Order
    plan: Plan
    whole: Recipe | None = None  # of which `recipe` is one stage
    stage_facts: tuple[Mapping[str, Any], ...] = ()  # of all stages, for whoever goes on from a checkpoint

    @property
    def processor(self) -> Any:
        return self.context.processor

    @cached_property
    def must_be_equal(self) -> continuity.Facts:
        """For whoever goes on from a checkpoint of this run. Found once: the base's files are read for it."""
        base = weights_digest(self.recipe.model.name_or_path)
        labels = self.context.labels
        names = labels.names if labels else ()
        return continuity.facts(self.given, self.plan, self.train.digest, base, names, self.stage_facts)

    @property
    def given(self) -> Recipe:
        """The recipe of the run, all stages included."""
        return self.whole or self.recipe


@dataclass
class Run:
    """A run that is ready to train."""

    prepared: Prepared
    engine: Engine
    objective: Any
    exam: Exam
    folder: Path
    checkpoints: checkpoint.Checkpoints
    meter: Meter
    progress: Progress = field(default_factory=Progress)
    verdict: Verdict = field(default_factory=Verdict)  # of the weights as they are now
    taken: int | None = None  # the step that was gone back to for its weights, once the training is over

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    @property
    def recipe(self) -> Recipe:
        return self.prepared.recipe

    @property
    def task(self) -> ModuleType:
        return self.prepared.task

    @property
    def step(self) -> int:
        """That of the weights as they are now."""
        return self.progress.step if self.taken is None else self.taken

    @property
    def model(self) -> Any:
        return self.objective.model

    def steps(self) -> Iterator[tuple[int, list[tuple[int, Any]]]]:
        """(step, this rank's numbered micro-batches) from where the run stands to the end of its stage.

        The next step is made while one trains.
        """
        with ThreadPoolExecutor(1) as maker:
            step, total = self.progress.step, self.plan.last_step
            coming = maker.submit(self._micro_batches, step) if step < total else None
            while coming is not None:
                batches = coming.result()
                coming = maker.submit(self._micro_batches, step + 1) if step + 1 < total else None
                yield step, batches
                step += 1

    def seen_in(self, step: int) -> int:
        """Tokens of the whole global batch, padding aside; or its rows, where the task counts those."""
        units = self.prepared.order.micro_batches(step, self.plan.global_batch_size, 1)[0]
        counts_tokens = self.task.TRAITS.unit == "tokens"
        return int(sum(self.prepared.order.lengths[unit].sum() if counts_tokens else len(unit) for unit in units))

    @cached_property
    def batch_norms(self) -> BatchNorms:
        return BatchNorms(self.objective, self.engine, self.plan.per_device_train_batch_size)

    @cached_property
    def augmentation(self) -> Augmentation | None:
        """Of the training data alone."""
        context = self.prepared.context
        return Augmentation(context, self.recipe.seed) if context.data.augment else None

    def rows_in(self, step: int) -> list[int]:
        """Of each micro-batch of a step, those of other ranks too."""
        return [len(units) for units in self._dealt(step)]

    def collate(self, units: Any, packing: bool | None = None) -> Any:
        """Rows of the training data as a batch, as they are in the file."""
        return self._collate(units, self.prepared.train.read, self.plan.packing if packing is None else packing)

    def collate_eval(self, units: Any) -> Any:
        return _collate_eval(self, units)

    def held_out(self) -> Any:
        """A padded batch of up to four rows, of the evaluation data where there are some."""
        rows = self.prepared.eval or self.prepared.train
        return self._collate([[i] for i in range(min(4, len(rows)))], rows.read, False)

    def _micro_batches(self, step: int) -> list[tuple[int, Any]]:
        dealt = self._dealt(step)
        mine = range(self.engine.rank, len(dealt), self.engine.world_size)
        read = self.prepared.train.read
        if self.augmentation is not None:
            read = self.augmentation.of_step(read, step)
        return [(number, self._collate(dealt[number], read, self.plan.packing)) for number in mine]

    def _collate(self, units: Any, read: Callable[..., Any], packing: bool) -> Any:
        packed = {"packing": True, "flat": "flash" in self.plan.attention} if packing else {}
        return self.task.rows.collate(units, read, self.prepared.context, **packed)

    def _dealt(self, step: int) -> list[list[Unit]]:
        sizes = self.plan.per_device_train_batch_size, self.plan.micro_batches_per_step
        return self.prepared.order.micro_batches(step, *sizes)


def _collate_eval(run: Run, units: Any) -> Any:
    """A task may want more beside a batch that is evaluated than beside one that is trained on."""
    assert run.prepared.eval is not None
    collate = getattr(run.task.rows, "collate_eval", run.task.rows.collate)
    return collate(units, run.prepared.eval.read, run.prepared.context)


def prepare_all(recipe: Recipe, world: World) -> Prepared:
    """Plan, processor and data of a recipe that can train; of the last stage, where there are several."""
    return prepare_stages(recipe, world)[-1]


def prepare_stages(recipe: Recipe, world: World) -> tuple[Prepared, ...]:
    """The same for each stage of a recipe; a recipe without stages is its own only one.

    Stages that are trained on the same data go on in its order where the one before left off.
    """
    if recipe.method == "qlora":
        quantize.insist_on_bitsandbytes()
    task = parts.load_whole("tasks", recipe.task)
    reader = Reader(recipe, task, processor.load(recipe, task.TRAITS))
    train = reader.rows("train")
    if train is None:
        raise RecipeError("data.train has no source", where=recipe.origin("data.train"))
    context = reader.context(train)
    evaluated = reader.rows("eval", context.labels)
    if evaluated is not None and "several" in task.rows.COLUMNS.kinds:
        labels.insist_alike(train, evaluated)
    if evaluated is not None and hasattr(task.metrics, "measurable"):
        insist_on_asked(recipe, task.metrics.measurable(context))
    read = {stages.trained_on(recipe): train}

    def rows_of(stage: Recipe) -> Joined:
        key = stages.trained_on(stage)
        if key not in read:
            read[key] = _rows_of_stage(stage, task, context)
        return read[key]

    def facts_of(stage: Recipe) -> ModelFacts:
        return model.facts(stage, task, parts.load("adapters", stage.method), context.processor, context.head)

    made = stages.planned(recipe, world, facts_of, rows_of, context)
    facts = tuple(stage.as_fact(rows_of(stage.recipe).digest) for stage in made) if len(made) > 1 else ()
    return tuple(
        Prepared(stage.recipe, task, context, rows_of(stage.recipe), evaluated, stage.order, stage.plan, recipe, facts)
        for stage in made
    )


def _rows_of_stage(stage: Recipe, task: ModuleType, context: Context) -> Joined:
    """A stage that has data of its own has the labels of the whole run."""
    rows = Reader(stage, task, context.processor).rows("train", context.labels)
    assert rows is not None, "a recipe without training data is refused"
    return rows


def build_objective(prepared: Prepared) -> Any:
    """Base model, adapter and loss; on the CPU, but for layers that are quantised on a GPU as they are read."""
    recipe, made = prepared.recipe, prepared.plan
    how = made.model_dtype, prepared.processor, made.device, made.compute_dtype, prepared.context.head
    base = model.load(recipe, prepared.task, *how)
    adapted = parts.load("adapters", recipe.method).apply(base, recipe.adapter)
    selection.settle(adapted, recipe)
    noise.on_embeddings(adapted, recipe.regularization.neftune_noise_alpha)
    activations.checkpoint_layers(adapted, made.gradient_checkpointing_interval, made.activation_offloading)
    return prepared.task.objective.build(adapted, recipe.loss, prepared.context)


def set_up(prepared: Prepared, running: Engine, place: Place) -> Run:
    """Everything up to the first step."""
    exam = Exam.of(prepared.recipe, prepared.task, prepared.context)
    meter = Meter(running, prepared.task.TRAITS.unit)
    run = Run(prepared, running, None, exam, place.folder, place.checkpoints, meter)
    _build(run, place.resume_from)
    return run


def enter(run: Run, stage: Prepared) -> None:
    """The next stage: built anew, from the checkpoint at the end of the one before, as a run that is resumed there."""
    saved = run.checkpoints.of_step(run.progress.step)
    run.prepared, run.objective = stage, None
    run.__dict__.pop("batch_norms", None)  # of the objective that is gone
    run.engine.release()
    _build(run, saved)
    run.progress.evaluations_without_gain = 0
    plateau.begin(run.progress)


def _build(run: Run, resume_from: Checkpoint | None) -> None:
    """The objective and its optimizer, as they are at the beginning or at a checkpoint."""
    recipe, running = run.recipe, run.engine
    running.seed(0, 0)  # random initial weights (model.init, adapters) are the same on every rank and in every world
    with running.creating():
        run.objective = build_objective(run.prepared)
    groups = param_groups.of(run.objective, recipe)
    running.prepare(run.objective, parts.load("optimizers", recipe.optimizer.name).build(groups, recipe.optimizer))
    if resume_from is not None:
        _take_up(run, resume_from)
    elif recipe.model.init is None and (new := _base(run.model).head_modules):
        log.say(f"new in the model, from random weights: {', '.join(new)}")
    if run.plan.packing:
        with running.apart():
            model.check_packing(run.model, running.device)
    _settle_loss(run)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def state_to_save(run: Run) -> dict[str, Any]:
    """state.json: what must be equal on resume, and where the run stands."""
    return {
        "progress": dataclasses.asdict(run.progress),
        "must_be_equal": run.prepared.must_be_equal,
        "strategy": run.plan.strategy,
        "world_size": run.plan.world_size,
        "total_steps": run.plan.total_steps,
        "precision": run.plan.precision,
        "judged_by": {name: getattr(run.plan, name) for name in JUDGED_BY},
        "scaler": run.engine.scaler_state(),
        "unread": run.meter.unread(),
    }


def _take_up(run: Run, resume_from: Checkpoint) -> None:
    state = resume_from.state
    if state["schema"] != checkpoint.SCHEMA:
        raise CheckpointError(
            f"written in format {state['schema']}, and this launcher goes on from format {checkpoint.SCHEMA}",
            where=str(resume_from.folder),
            fix="go on with the launcher that wrote it, or start a new run from its export",
        )
    now = state_to_save(run)
    continuity.insist(state["must_be_equal"], now["must_be_equal"], str(resume_from.folder))
    if state["total_steps"] != now["total_steps"]:
        log.say(
            f"note: the run was planned for {state['total_steps']} steps and is now for {now['total_steps']}; the schedule follows"
        )
    if state["precision"] != now["precision"]:
        log.say(f"note: the run computed in {state['precision']} until now and goes on in {now['precision']}")
    if (were := _ranks(state)) != (are := _ranks(now)):
        log.say(f"note: the run had {were} until now and goes on with {are}")
    saved_state.load_model(run.model, resume_from.folder / "model", run.engine)
    if resume_from.step > (run.plan.first_step or 0):  # at its beginning, a stage has an optimizer of its own
        saved_state.load_optimizer(resume_from.folder / "optimizer", run.engine)
    run.engine.load_scaler_state(state["scaler"])
    run.meter.take_up(state["unread"])
    run.progress = Progress(**state["progress"])
    _judge_by(run, state.get("judged_by", {}))


def _judge_by(run: Run, before: Mapping[str, Any]) -> None:
    """Evaluations may change on the way; a best by another metric is not compared with those to come."""
    now = {name: getattr(run.plan, name) for name in JUDGED_BY}
    changed = [name for name in before if before[name] != plain(now[name])]
    for name in changed:
        log.say(f"note: evaluation.{name} was {before[name]} until now and is {plain(now[name])}")
    if set(changed) - {"metrics"} and run.progress.best_step is not None:
        log.say(f"note: step {run.progress.best_step} was the best until now; from here the best is looked for anew")
        run.progress.best_value = run.progress.best_step = None
        run.progress.evaluations_without_gain = 0


def _ranks(state: Mapping[str, Any]) -> str:
    number = state["world_size"]
    return f"{number} process{'es' * (number > 1)} under {state['strategy']}"


def _settle_loss(run: Run) -> None:
    """A loss that may be computed in several ways is tried on the first row."""
    if not hasattr(run.objective, "settle"):
        return
    tolerance = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 2e-2, "fp16": 1e-2}[run.plan.precision]
    batch = run.engine.to_device(run.collate(run.prepared.order.units(0)[:1]))
    was_training = run.objective.training
    run.objective.eval()
    with run.engine.autocast():
        run.objective.settle(batch, tolerance)
    run.objective.train(was_training)
    log.say(f"loss: {run.objective.implementation} ({run.objective.reason})")
