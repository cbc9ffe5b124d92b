"""The step that all others are compared with, and how far rounding alone takes it from itself."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher import tensor_files
from launcher.errors import NonFiniteError
from launcher.run import Run
from launcher.verify_math import FACTS, conditions, measure, variants
from launcher.verify_math.compare import Allowance, Distance, Reference
from launcher.verify_math.conditions import Fingerprints
from launcher.verify_math.measure import MicroBatches, Setting

GRADIENT = "reference"  # stem of its files
# How much further off than rounding a right computation may be. Seen: at most 1.2 times in fp32 (eight models of five families) and
# 1.4 times in bf16, where the distance to fp32 is the floor.
FP32_FACTOR, LOW_PRECISION_FACTOR = 5.0, 2.0


def take(setting: Setting) -> None:
    """Write its gradient, and what else there is to know of it; facts.json appears when all is there."""
    folder, users = setting.folder, setting.recipe({})
    plain = variants.reference(users)
    configured = setting.prepared(plain, in_fp32=not setting.job.as_configured)
    is_fp32 = configured.plan.precision == configured.plan.model_dtype == "fp32"
    facts: dict[str, Any] = {"precision": configured.plan.precision, "flash": variants.flash(users)}
    with measure.set_up(setting.prepared(plain, in_fp32=True), folder) as run:
        batch = measure.first_batch(run)
        facts |= _rows(run)
        facts["filled"] = conditions.fill_zero_matrices(run, folder)  # first: behind zeros, dropout does nothing
        facts["had_dropout"] = conditions.without_chance(run, batch)
        facts["start"] = conditions.fingerprints(run)
        known = _computed(run, batch, folder)
        floor = _after_nudge(run, batch, known) if is_fp32 else None
    if floor is None:
        with measure.set_up(configured, folder) as run:
            conditions.same_start(run, folder)
            floor = _distance(run, measure.first_batch(run), known)
    if not math.isfinite(floor.gradient):
        raise NonFiniteError(
            f"in {configured.plan.precision} the gradient of this batch is not finite; in fp16, training skips such steps",
            fix="leave out --as-configured, or set training.precision",
        )
    facts |= {"loss": known.loss, "norm": known.norm, "norms": known.norms}
    facts |= {"factor": FP32_FACTOR if is_fp32 else LOW_PRECISION_FACTOR, "floor": asdict(floor)}
    (folder / FACTS).write_text(json.dumps(facts))


def read(folder: Path) -> tuple[Reference, Allowance, Fingerprints]:
    """It, how far others may be from it, and the weights it began with."""
    facts = json.loads((folder / FACTS).read_text())
    known = Reference(facts["loss"], facts["norm"], facts["norms"], tensor_files.read(folder, GRADIENT))
    return known, Allowance(facts["factor"], Distance(**facts["floor"])), facts["start"]


def _computed(run: Run, batch: MicroBatches, folder: Path) -> Reference:
    loss = measure.backward(run, batch)
    tensor_files.write(folder, GRADIENT, run.engine.gradients())
    known = Reference.of(loss, tensor_files.read(folder, GRADIENT))
    if not 0 < known.norm < math.inf:
        raise NonFiniteError(f"the gradient of the reference has norm {known.norm}", where=run.recipe.origin("model"))
    return known


def _after_nudge(run: Run, batch: MicroBatches, known: Reference) -> Distance:
    """What rounding alone does: the same once more, rows in reverse order and weights off by one unit in the last place."""
    run.objective.zero_grad(set_to_none=True)
    conditions.nudge(run.objective)
    return _distance(run, conditions.reversed_rows(batch), known)


def _distance(run: Run, batch: MicroBatches, known: Reference) -> Distance:
    found = known.distance(measure.backward(run, batch), run.engine.gradients())
    assert found is not None, "there is but one process"
    return found


def _rows(run: Run) -> dict[str, Any]:
    """How long they are, and how much the loss counts in each."""
    lengths = run.prepared.train.lengths.tolist()
    counts = [run.objective.counts(run.collate([[row]], packing=False)) for row in range(len(lengths))]
    by_term = {term: [count[term] for count in counts] for term in counts[0]}
    return {"recipe": run.recipe.name, "rows": len(lengths), "lengths": lengths, "counts": by_term}
