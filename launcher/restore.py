"""A finished or interrupted run, taken up again on one process to evaluate, generate or export."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher import engine, log, recipe, run, saved_state
from launcher.checkpoint import Checkpoint, Checkpoints
from launcher.engine import Engine
from launcher.errors import CheckpointError, EnvironmentProblem
from launcher.evaluate import Exam
from launcher.meter import Meter
from launcher.recipe import Recipe
from launcher.run import Progress, Run
from launcher.world import World

# What only training asks for: to share out among processes, to update weights, to make room for gradients.
OF_TRAINING = ("distributed=null", "optimizer=null", "training.activation_offloading=false")
WITHOUT_STAGES = ("stages=[]", "linear_probe_then_finetune=null", "gradual_unfreezing=null")


def restore(folder: Path, step: int | None = None, overrides: Sequence[str] = ()) -> Run:
    """The run with the weights of one checkpoint: `step`, else its best, else its newest good one.

    `overrides` change its recipe, as on the command line of a training.
    """
    if not (folder / "recipe.yaml").is_file():
        raise EnvironmentProblem(
            "not a run folder: it holds no recipe.yaml", where=str(folder), fix="see `launcher runs`"
        )
    loaded, world = recipe.load(folder / "recipe.yaml", overrides), engine.world()
    prepared = replace(
        run.prepare_all(_without_training(folder, loaded, world, overrides), world), recipe=loaded, whole=None
    )
    running = Engine(prepared.plan)
    checkpoints = Checkpoints(folder, loaded.checkpoint.save_total_limit, running)
    chosen = _choose(checkpoints, step)
    objective = run.build_objective(prepared)
    saved_state.load_model(objective.model, chosen.folder / "model", running)
    running.place(objective)
    log.say(f"{folder}: step {chosen.step}")
    exam = Exam.of(loaded, prepared.task, prepared.context)
    meter, progress = Meter(running, prepared.task.TRAITS.unit), Progress(**chosen.state["progress"])
    return Run(prepared, running, objective, exam, folder, checkpoints, meter, progress)


def _without_training(folder: Path, loaded: Recipe, world: World, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run as any machine can take it up: a run that needed a GPU to train needs none to be exported."""
    no_tf32 = loaded.training.precision == "tf32" and world.device == "cpu"
    return recipe.load(
        folder / "recipe.yaml", [*overrides, *OF_TRAINING, *WITHOUT_STAGES, *["training.precision=fp32"] * no_tf32]
    )


def _choose(checkpoints: Checkpoints, step: int | None) -> Checkpoint:
    published = {c.step: c for c in checkpoints.published()}
    if not published:
        raise CheckpointError("this run has no checkpoint", where=str(checkpoints.root))
    newest = max(published)
    wanted = step if step is not None else published[newest].state["progress"]["best_step"] or newest
    if wanted not in published:
        raise CheckpointError(
            f"no checkpoint of step {wanted}",
            where=str(checkpoints.root),
            fix=f"there are {', '.join(map(str, published))}",
        )
    return checkpoints.of_step(wanted)
