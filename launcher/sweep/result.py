"""What a sweep leaves after each trial: sweep.json, report.html, and best.yaml, a recipe that is ready to run."""

from typing import Any

from optuna.trial import FrozenTrial, TrialState

from launcher import log, recipe
from launcher.recipe.searching import override
from launcher.report.words import duration, number
from launcher.schema import Sweep
from launcher.section import plain
from launcher.sweep import page, space
from launcher.sweep.place import Place, write_json, write_text
from launcher.sweep.store import Store

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "open",
}


def write(place: Place, store: Store, sweep: Sweep, num_trials: int) -> dict[str, Any]:
    """Write all of it anew; returns what is in sweep.json."""
    found = gathered(place, store, sweep, num_trials)
    write_json(place.folder / "sweep.json", found)
    if found["best"] is not None:
        _write_best(place, found)
    write_text(place.folder / "report.html", page.render(found, store.study()))
    return found


def gathered(place: Place, store: Store, sweep: Sweep, num_trials: int) -> dict[str, Any]:
    """Everything about the sweep as JSON: what is tried, each trial by its number, the best."""
    asked = place.asked["sweep"]
    trials = [_trial(place, one, sweep) for one in sorted(store.trials(), key=lambda one: one.number)]
    done = [one for one in trials if one["state"] == "done"]
    choose = max if asked["greater_is_better"] else min
    return {
        "study": place.study,
        "digest": place.digest,
        "metric": asked["metric"],
        "greater_is_better": asked["greater_is_better"],
        "sampler": asked["sampler"],
        "pruner": asked["pruner"],
        "seed": asked["seed"],
        "space": asked["space"],
        "num_trials": num_trials,
        "best": choose(done, key=lambda one: one["value"]) if done else None,
        "trials": trials,
    }


def _trial(place: Place, one: FrozenTrial, sweep: Sweep) -> dict[str, Any]:
    attrs = one.user_attrs
    return {
        "number": one.number,
        "state": STATES[one.state],
        "values": {key: plain(value) for key, value in space.values_of(one, sweep).items()},
        "value": one.value if one.state is not TrialState.FAIL else None,
        "step": attrs.get("step"),
        "seconds": attrs.get("seconds"),
        "evaluations": sorted(one.intermediate_values.items()),
        "exit_code": attrs.get("exit_code", None if one.state is TrialState.RUNNING else 0),
        "error": attrs.get("error"),
        "same_as": attrs.get("same_as"),
        "folder": str(place.trial(attrs.get("same_as", one.number)).relative_to(place.folder)),
    }


def _write_best(place: Place, found: dict[str, Any]) -> None:
    """The recipe of the best trial as resolved, with what it came to above it; as it is while no better trial comes."""
    best, file = found["best"], place.folder / "best.yaml"
    words = [override(key, value) for key, value in best["values"].items()]
    came_to = f"{found['metric']} {best['value']!r} at step {best['step']}"
    lines = [f"Trial {best['number']} of the sweep {found['study']}, the best: {came_to}.", *words]
    head = "".join(f"# {line}\n" for line in lines)
    if not (file.exists() and file.read_text(encoding="utf-8").startswith(head)):
        write_text(file, f"{head}\n{recipe.load(place.recipe, words).to_yaml()}")


def say(place: Place, found: dict[str, Any]) -> None:
    """How many trials came to what, and which is the best."""
    states = [(_counted(found, state), state) for state in ("done", "pruned", "failed", "open")]
    log.say(f"{len(found['trials'])} of {found['num_trials']} trials: {', '.join(f'{n} {s}' for n, s in states if n)}")
    seconds = [one["seconds"] for one in found["trials"] if one["seconds"] is not None]
    log.say(f"time of all trials: {duration(sum(seconds))}")
    best = found["best"]
    if best is not None:
        words = " ".join(override(key, value) for key, value in best["values"].items())
        log.say(f"best: trial {best['number']}, {found['metric']} {number(best['value'])}: {words}")
        if not (place.folder / best["folder"]).is_dir():
            log.say(f"WARNING: its folder {best['folder']} is gone; to have its model again, train its recipe")
        log.say(f"its recipe: {place.folder / 'best.yaml'}")
    log.say(f"report: {place.folder / 'report.html'}")


def _counted(found: dict[str, Any], state: str) -> int:
    return sum(one["state"] == state for one in found["trials"])
