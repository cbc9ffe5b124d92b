"""The values of a trial: chosen by Optuna within `sweep.space`, by a sampler that knows the trial's number and nothing else.

The chance of a trial follows from (seed, number), not from how many were drawn before in the same process: a sweep that is
killed and resumed, and one of many workers, draws no number twice.
"""

import json
import zlib
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from launcher.recipe.searching import grid_values
from launcher.schema import Dimension, Sweep
from launcher.section import plain

STARTUP_TRIALS = 10


def values(study: optuna.Study, trial_id: int, number: int, sweep: Sweep, seed: int) -> dict[str, Any]:
    """Key of the recipe -> value. What the storage has already is kept, the rest is chosen and stored."""
    study.sampler = _sampler(sweep, seed, number)
    trial = optuna.trial.Trial(study, trial_id)
    return {key: _suggested(trial, key, one) for key, one in sweep.space.items()}


def values_of(trial: optuna.trial.FrozenTrial, sweep: Sweep) -> dict[str, Any]:
    """The same of a trial that has its values; keys that it has not got yet are left out."""
    return {key: _chosen(one, trial.params[key]) for key, one in sweep.space.items() if key in trial.params}


def _suggested(trial: optuna.trial.Trial, key: str, dimension: Dimension) -> Any:
    if dimension.values is not None:
        return _chosen(dimension, trial.suggest_categorical(key, _labels(dimension)))
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    assert low is not None and high is not None
    if dimension.is_whole:
        return trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=log)
    return _chosen(dimension, trial.suggest_float(key, low, high, step=step, log=log))


def _labels(dimension: Dimension) -> list[Any]:
    """What Optuna calls the values: lists and mappings by their text, since it takes none."""
    return [json.dumps(plain(one)) if isinstance(one, tuple | dict) else one for one in dimension.values or ()]


def _chosen(dimension: Dimension, label: Any) -> Any:
    if dimension.values is not None:
        return dimension.values[_labels(dimension).index(label)]
    assert dimension.low is not None and dimension.high is not None
    # A float as short as it is exact enough: the command line, the recipe and the table then show the same number.
    return min(max(float(f"{label:.6g}"), dimension.low), dimension.high) if isinstance(label, float) else label


def _sampler(sweep: Sweep, seed: int, number: int) -> BaseSampler:
    if sweep.sampler == "grid":
        return _Grid(sweep)
    own = zlib.crc32(f"{seed} {number}".encode())
    if sweep.sampler == "random":
        return RandomSampler(seed=own)
    return TPESampler(seed=own, n_startup_trials=sweep.startup_trials or STARTUP_TRIALS)


class _Grid(BaseSampler):
    """Trial n is point n; the last key of the recipe changes fastest."""

    def __init__(self, sweep: Sweep):
        self._space = sweep.space

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        place = trial.number
        for key, dimension in reversed(self._space.items()):
            listed = grid_values(dimension) if dimension.values is None else _labels(dimension)
            place, index = divmod(place, len(listed))
            if key == param_name:
                return listed[index]
        raise AssertionError(param_name)
