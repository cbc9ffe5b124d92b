"""A sweep's report.html: one file without a network, as the report of a run."""

import json
from collections.abc import Mapping
from typing import Any

import optuna

from launcher.report.page import template
from launcher.sweep import axes

LEAST_TRIALS = 4  # for an importance that means anything


def render(found: Mapping[str, Any], study: optuna.Study) -> str:
    """`found` is what stands in sweep.json."""
    counts = {
        state: sum(one["state"] == state for one in found["trials"]) for state in ("done", "pruned", "failed", "open")
    }
    seconds = [one["seconds"] for one in found["trials"] if one["seconds"] is not None]
    return template("sweep.html").render(
        found=found,
        counts={state: number for state, number in counts.items() if number},
        seconds=sum(seconds) if seconds else None,
        coordinates=axes.coordinates(found),
        history=axes.history(found),
        importance=importance(found, study),
        as_json=lambda value: json.dumps(value, ensure_ascii=False),
    )


def importance(found: Mapping[str, Any], study: optuna.Study) -> dict[str, float]:
    """Key -> its share in what sets the best trials apart (PED-ANOVA, arXiv:2304.10255); empty with too few trials."""
    done = [one for one in found["trials"] if one["state"] == "done"]
    if len(done) < LEAST_TRIALS or len({one["value"] for one in done}) < 2 or len(found["space"]) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: share for key, share in shares.items() if share == share}
