"""The trials in the database, and who works on which: a file (SQLite) for one machine, PostgreSQL for several.

A trial that runs bears the claim of its worker (machine, process, time) and is confirmed every few seconds. Whoever takes or
makes a trial holds the storage's one lock while it does, so no two workers take the same one. A claim counts as abandoned
when its process is gone or, on another machine, when it was not confirmed for `STALE_SECONDS`.
"""

import os
import secrets
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from launcher.errors import CheckpointError, EnvironmentProblem, RecipeError, StorageError
from launcher.run_folder import RunFolder, process_lives
from launcher.sweep.place import DATABASE, LOCK, Place

BEAT_SECONDS, STALE_SECONDS = 15.0, 120.0
LOCK_KEY = 5_367_421  # of PostgreSQL's advisory lock: any number that nobody else takes
STORAGE_TROUBLE = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
MOST_SECONDS = 60  # that the file waits for another writer


@dataclass(frozen=True)
class Claimed:
    """A trial that this process may work on; `is_new` unless somebody did before."""

    trial_id: int
    number: int
    is_new: bool


class Store:
    """The database of one sweep. Opened before the study is, since the study is made under its lock."""

    def __init__(self, url: str | None, folder: Path):
        self._is_file = url is None
        path = folder / DATABASE
        address = f"sqlite:///{path.resolve()}" if url is None else url.replace("postgresql:", "postgresql+psycopg:", 1)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        (folder / LOCK).touch()
        self._lock = filelock.FileLock(folder / LOCK)
        wait = {"connect_args": {"timeout": MOST_SECONDS}} if self._is_file else {}
        with storage_errors():
            self._engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)
            with self.locked():  # two that make the same tables hinder each other
                # As the study has it: a study that is given a plain one remembers trials apart from it.
                self.storage = optuna.storages.get_storage(optuna.storages.RDBStorage(address, engine_kwargs=wait))
        self._name, self._study_id = "", -1
        self.worker = secrets.token_hex(8)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else takes, makes or hands over a trial meanwhile. Whoever dies lets go."""
        if self._is_file:
            with self._lock:
                yield
            return
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            yield

    def open(self, place: Place, greater_is_better: bool) -> bool:
        """Make the study or join it, under the lock; whether it is new. Another one of the same name is refused."""
        names = {study.study_name for study in optuna.get_all_study_summaries(self.storage, include_best_trial=False)}
        direction = StudyDirection.MAXIMIZE if greater_is_better else StudyDirection.MINIMIZE
        study = optuna.create_study(
            storage=self.storage, study_name=place.study, direction=direction, load_if_exists=True
        )
        self._name, self._study_id = place.study, self.storage.get_study_id_from_name(place.study)
        attrs = study.user_attrs
        if place.study not in names or not attrs and not self.trials():  # a kill may have left a study without a word
            study.set_user_attr("folder", str(place.folder.resolve()))
            study.set_user_attr("token", place.token)
            return True
        if attrs.get("token") != place.token and attrs.get("folder") == str(place.folder.resolve()):
            raise CheckpointError(
                "the storage holds a sweep of this folder, whose study.json is gone, so nobody knows what it was asked for",
                where=str(place.folder),
                fix="bring study.json back, or choose another output_dir and another sweep.study",
            )
        if attrs.get("token") != place.token:
            raise RecipeError(
                f"the storage holds another sweep named {place.study}, in {attrs.get('folder')}",
                where=str(place.folder),
                fix="go on with that one (output_dir, --resume auto), or give sweep.study another name",
            )
        return False

    def study(self) -> optuna.Study:
        """A new object each time: one keeps the trials that its sampler has seen, and would learn nothing from later ones."""
        return optuna.load_study(study_name=self._name, storage=self.storage)

    def trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self._study_id, deepcopy=False)

    def now(self) -> float:
        """Unix seconds by the storage's own clock, since those of several machines differ."""
        if self._is_file:
            return time.time()
        with self._engine.connect() as connection:
            return float(
                connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            )

    def claim(self, place: Place, num_trials: int, working: Collection[int] = ()) -> Claimed | None:
        """A trial that nobody works on: one that was left, or the next; under the lock. None where there is none.

        `working`: numbers of those that this worker does work on.
        """
        there = self.trials()
        left = next((one for one in there if one.number not in working and self._is_left(one, place)), None)
        if left is not None:
            self._sign(left._trial_id)
            return Claimed(left._trial_id, left.number, is_new=False)
        if len(there) >= num_trials or any(self._is_ending(one, place) for one in there):
            return None
        mark = {"claim": self._who(), "beat": self.now()}
        template = optuna.create_trial(state=TrialState.RUNNING, user_attrs=mark)
        trial_id = self.storage.create_new_trial(self._study_id, template_trial=template)
        return Claimed(trial_id, self.storage.get_trial(trial_id).number, is_new=True)

    def _is_left(self, trial: FrozenTrial, place: Place) -> bool:
        if trial.state is not TrialState.RUNNING:
            return False
        claim = trial.user_attrs.get("claim")
        if not claim or claim["worker"] == self.worker:
            return True
        if claim["machine"] != machine():
            return self.now() - _beat(trial) > STALE_SECONDS
        return not process_lives(claim["pid"], claim["time"]) and not _still_runs(place.trial(trial.number))

    def _is_ending(self, trial: FrozenTrial, place: Place) -> bool:
        """Whether its worker is gone and its own process just follows: it comes before any new one, so that order is kept."""
        claim = trial.user_attrs.get("claim") or {}
        if trial.state is not TrialState.RUNNING or claim.get("machine") != machine():
            return False
        return not process_lives(claim["pid"], claim["time"]) and _still_runs(place.trial(trial.number))

    def held(self, place: Place) -> dict[int, float]:
        """Number -> last confirmation of the trials that may be left soon: others have them, or the process of one still ends."""
        running = [trial for trial in self.trials() if trial.state is TrialState.RUNNING]
        return {one.number: _beat(one) for one in running if not self._is_sure(one.user_attrs.get("claim"))}

    def _is_sure(self, claim: Any) -> bool:
        """Whether somebody certainly works on it: a process of this machine."""
        return bool(claim) and claim["machine"] == machine() and process_lives(claim["pid"], claim["time"])

    def _sign(self, trial_id: int) -> None:
        self.set(trial_id, "beat", self.now())
        self.set(trial_id, "claim", self._who())

    def _who(self) -> dict[str, Any]:
        return {"worker": self.worker, "machine": machine(), "pid": os.getpid(), "time": time.time()}

    def confirm(self, trial_id: int) -> bool:
        """Say that the work goes on; False if it has become another worker's."""
        trial = self.storage.get_trial(trial_id)
        claim = trial.user_attrs.get("claim") or {}
        if trial.state is not TrialState.RUNNING or claim.get("worker") != self.worker:
            return False
        self.set(trial_id, "beat", self.now())
        return True

    def release(self, trial_id: int) -> None:
        """For whoever comes next."""
        self.set(trial_id, "claim", None)

    def set(self, trial_id: int, name: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial_id, name, value)

    def report(self, trial_id: int, step: int, value: float) -> None:
        self.storage.set_trial_intermediate_value(trial_id, step, value)

    def finish(self, trial_id: int, state: TrialState, value: float | None) -> None:
        self.storage.set_trial_state_values(trial_id, state, None if value is None else [value])


@contextmanager
def storage_errors() -> Iterator[None]:
    """What a database says, as an error that says what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            f"sweep.storage needs {error.name}",
            fix="pip install -c constraints.txt 'finetune-launcher[sweep-postgresql]'",
        ) from error
    except STORAGE_TROUBLE as error:
        first = str(error.__cause__ or error).splitlines()[0]
        fix = "see that the database answers (sweep.storage), then go on with --resume auto"
        if "file is not a database" in first:
            fix = "bring the file sweep.db back; without it the trials of its folder are lost to the sweep, so begin another"
        raise StorageError(f"the sweep's storage: {first}", fix=fix) from error


def machine() -> str:
    """This machine, and within it the table of processes that a pid belongs to."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _beat(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("beat", 0.0))


def _still_runs(folder: Path) -> bool:
    """Whether the trial's own process outlives its worker; it is about to end."""
    attempts = RunFolder(folder).attempts()
    last = attempts[-1] if attempts else {}
    return (
        last.get("event") == "start"
        and last.get("host") == socket.gethostname()
        and process_lives(last.get("pid"), last.get("time"))
    )
