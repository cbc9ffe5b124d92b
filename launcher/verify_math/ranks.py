"""What each process of verify-math does: alone it takes the reference first, then it goes through the variants of its world."""

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from launcher import engine, log, recipe, tensor_files
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.recipe import Recipe
from launcher.run import Prepared, Run
from launcher.verify_math import FACTS, Job, conditions, measure, variants
from launcher.verify_math.compare import Allowance, Distance, Reference
from launcher.verify_math.measure import Data
from launcher.verify_math.variants import Variant
from launcher.world import World

REFERENCE = "reference"
# How much further from the reference a right computation may be than rounding alone has been seen to go.
FP32_FACTOR, LOW_PRECISION_FACTOR = 5.0, 2.0


def work(job: Job, folder: Path) -> None:
    """Write outcomes-<processes>-<rank>.jsonl, a line a variant. Raises what keeps the reference from being taken."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print, and standard output is for the table
    log.set_up(1)
    world, rank = engine.world(), int(os.environ.get("RANK", "0"))
    loaded = recipe.load(job.recipe, job.overrides)
    data = measure.read_data(loaded, job.rows)
    if world.size == 1:
        _write_facts(job, data, folder)
    facts = json.loads((folder / FACTS).read_text())
    reference = Reference(facts["loss"], facts["norm"], facts["norms"], tensor_files.read(folder, REFERENCE))
    allowance = Allowance(facts["factor"], Distance(**facts["floor"]))
    mine = [v for v in variants.listed(loaded, len(data.rows), job.processes, job.pairs) if v.processes == world.size]
    with (folder / f"outcomes-{world.size}-{rank}.jsonl").open("w") as lines:
        for number, variant in enumerate(mine):
            _meet(folder / f"port-{number}", rank, world.size)
            started = time.monotonic()
            outcome = {"variant": variant.name} | _outcome(job, variant, data, folder, reference, allowance)
            outcome |= {"seconds": round(time.monotonic() - started, 2), "time": time.time()}
            lines.write(json.dumps(outcome) + "\n")
            lines.flush()
            if rank == 0:
                print(f"{variant.name}: {outcome['verdict']} ({outcome['seconds']:.1f} s)", flush=True)


def _outcome(
    job: Job, variant: Variant, data: Data, folder: Path, reference: Reference, allowance: Allowance
) -> dict[str, Any]:
    """The verdict, with numbers on rank zero: `refused` where the launcher would not train like this, `failed` where it broke."""
    try:
        _insist_on_gpus(engine.world())
        prepared = _prepared(job, variant, data, not job.as_configured)
        with measure.set_up(prepared, folder) as run:
            conditions.same_start(run, folder)
            loss = measure.backward(run, measure.first_batch(run))
            found = reference.distance(loss, run.engine.gradients())
            told = _told(run) | {"loss": loss}
        return {"verdict": "ok"} if found is None else told | allowance.judge(found)
    except (RecipeError, EnvironmentProblem) as error:
        return {"verdict": "refused", "reason": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"verdict": "failed", "reason": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}


def _write_facts(job: Job, data: Data, folder: Path) -> None:
    """The gradient of the reference, and what else there is to know about it; the file appears when all is there."""
    plain = variants.reference(recipe.load(job.recipe, job.overrides))
    configured = _prepared(job, plain, data, exact=not job.as_configured)
    is_exact = configured.plan.precision == configured.plan.model_dtype == "fp32"
    if configured.plan.precision == "fp16":
        raise RecipeError(
            "fp16 begins with a loss scaled so high that gradients overflow, and skips such steps",
            fix="leave out --as-configured, or set training.precision",
        )
    with measure.set_up(_prepared(job, plain, data, exact=True), folder) as run:
        facts = _facts(run) | {"dropout": conditions.switch_off_dropout(run.objective)}
        facts |= {"filled": conditions.fill_zero_matrices(run, folder), "precision": configured.plan.precision}
        batch = measure.first_batch(run)
        conditions.insist_on_no_chance(run, batch)
        loss = measure.backward(run, batch)
        tensor_files.write(folder, REFERENCE, run.engine.gradients())
        reference = Reference.of(loss, tensor_files.read(folder, REFERENCE))
        floor = _after_nudge(run, batch, reference) if is_exact else None
    if floor is None:
        with measure.set_up(configured, folder) as run:
            conditions.same_start(run, folder)
            loss_as_configured = measure.backward(run, measure.first_batch(run))
            floor = reference.distance(loss_as_configured, run.engine.gradients())
    factor = FP32_FACTOR if is_exact else LOW_PRECISION_FACTOR
    facts |= {"loss": loss, "norm": reference.norm, "norms": reference.norms, "factor": factor, "floor": asdict(floor)}
    (folder / FACTS).write_text(json.dumps(facts))


def _after_nudge(run: Run, batch: measure.MicroBatches, reference: Reference) -> Distance:
    run.objective.zero_grad(set_to_none=True)
    conditions.nudge(run.objective)
    return reference.distance(measure.backward(run, conditions.reversed_rows(batch)), run.engine.gradients())


# --- the recipe of a variant -----------------------------------------------------------------------------------------


def _prepared(job: Job, variant: Variant, data: Data, exact: bool) -> Prepared:
    """`exact`: in fp32, whatever the recipe's precision."""
    changes = dict(variant.changes)
    if exact:
        changes |= variants.in_fp32(_recipe(job, {}))
    changes |= measure.batch_changes(_recipe(job, changes), data.rows, variant.cut, engine.world())
    return measure.prepare(_recipe(job, changes), data, engine.world())


def _recipe(job: Job, changes: Mapping[str, str]) -> Recipe:
    """The user's recipe with some keys changed; an override of the same key gives way."""
    kept = [override for override in job.overrides if override.partition("=")[0] not in changes]
    return recipe.load(job.recipe, [*kept, *(f"{key}={value}" for key, value in changes.items())])


# --- facts -----------------------------------------------------------------------------------------------------------


def _facts(run: Run) -> dict[str, Any]:
    """Of the rows: how long they are, and what the loss counts in each."""
    lengths = run.prepared.train.lengths.tolist()
    counts = [run.objective.counts(run.collate([[row]], packing=False)) for row in range(len(lengths))]
    return {"recipe": run.recipe.name, "rows": len(lengths), "lengths": lengths, "counts": counts}


def _told(run: Run) -> dict[str, Any]:
    plan = run.plan
    return {
        "shape": [plan.world_size, plan.gradient_accumulation_steps, plan.per_device_train_batch_size],
        "strategy": plan.strategy,
        "loss_kind": getattr(run.objective, "implementation", ""),
    }


# --- processes -------------------------------------------------------------------------------------------------------


def _insist_on_gpus(world: World) -> None:
    if world.device == "cuda" and torch.cuda.device_count() < world.processes_per_node:
        raise EnvironmentProblem(
            f"{world.processes_per_node} processes need as many GPUs, and there are {torch.cuda.device_count()}",
            fix="set CUDA_VISIBLE_DEVICES to nothing to compare on the CPU",
        )


def _meet(file: Path, rank: int, world_size: int) -> None:
    """Let the ranks meet at a port of its own for each variant: at the old one, a fast rank finds the store that others leave."""
    if world_size == 1:
        return
    if rank == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            file.with_suffix(".new").write_text(str(probe.getsockname()[1]))
        file.with_suffix(".new").rename(file)
    while not file.exists():
        time.sleep(0.01)
    os.environ["MASTER_PORT"] = file.read_text()
