"""What each process of verify-math does: alone it takes the reference first, then it goes through the variants of its world."""

import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from launcher import engine, log
from launcher.errors import EnvironmentProblem
from launcher.run import Run
from launcher.verify_math import FACTS, Job, conditions, measure, outcomes, reference, variants
from launcher.verify_math.compare import Allowance, Reference
from launcher.verify_math.conditions import Fingerprints
from launcher.verify_math.measure import Setting
from launcher.verify_math.variants import Variant
from launcher.world import World


def work(job: Job, folder: Path) -> int:
    """Add a line a variant to outcomes-<processes>-<rank>.jsonl; returns the exit code. Ends with the first variant that fails.

    Raises what keeps the reference from being taken.
    """
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print, and standard output is for the table
    log.set_up(1)
    world, rank, port = engine.world(), int(os.environ.get("RANK", "0")), os.environ.get("MASTER_PORT")
    setting = Setting.of(job, folder)
    if not (folder / FACTS).exists():
        reference.take(setting)
    known = reference.read(folder)
    done = {outcome["variant"] for outcome in outcomes(folder, world.size)}
    listed = variants.listed(setting.recipe({}), len(setting.rows), job.processes, job.pairs)
    left = [variant for variant in listed if variant.processes == world.size and variant.name not in done]
    with (folder / f"outcomes-{world.size}-{rank}.jsonl").open("a") as lines:
        for number, variant in enumerate(left):
            _meet(folder / f"port-{port}-{number}", rank, world.size)
            started = time.monotonic()
            outcome = {"variant": variant.name} | _outcome(setting, variant, *known)
            outcome |= {"seconds": round(time.monotonic() - started, 2), "time": time.time()}
            print(json.dumps(outcome), file=lines, flush=True)
            if rank == 0:
                print(f"{variant.name}: {outcome['verdict']} ({outcome['seconds']:.1f} s)", flush=True)
            if outcome["verdict"] == "failed":
                return 1
    return 0


def _outcome(
    setting: Setting, variant: Variant, known: Reference, allowance: Allowance, start: Fingerprints
) -> dict[str, Any]:
    """The verdict, with numbers on rank zero: `refused` where the launcher would not train like this, `failed` where it broke."""
    try:
        _insist_on_gpus(engine.world())
        prepared = setting.prepared(variant, in_fp32=not setting.job.as_configured)
        with measure.set_up(prepared, setting.folder) as run:
            conditions.same_start(run, setting.folder)
            elsewhere = conditions.starts_elsewhere(conditions.fingerprints(run), start)
            loss = measure.backward(run, measure.first_batch(run))
            found = known.distance(loss, run.engine.gradients())
            told = _told(run) | {"loss": loss}
        if found is None:
            return {"verdict": "ok"}
        judged = told | allowance.judge(found)
        return judged | {"verdict": "WRONG", "reason": f"starts from another {elsewhere}"} if elsewhere else judged
    except measure.REFUSALS as error:
        return {"verdict": "refused", "reason": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"verdict": "failed", "reason": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}


def _told(run: Run) -> dict[str, Any]:
    """How the step was computed."""
    plan = run.plan
    return {
        "cut": [plan.world_size, plan.gradient_accumulation_steps, plan.per_device_train_batch_size],
        "strategy": plan.strategy,
        "precision": plan.precision,
        "packed": plan.packing,
        "activation checkpointing": plan.gradient_checkpointing,
        "fused loss": getattr(run.objective, "implementation", None) == "fused",
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
