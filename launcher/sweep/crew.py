"""The trials of one machine: taken from the storage, started, watched, given up where they are bad, and written down."""

import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from launcher import log, recipe
from launcher.errors import LauncherError
from launcher.faults import StopRequest
from launcher.recipe.searching import override
from launcher.report.facts import gather
from launcher.report.words import duration, number
from launcher.run_folder import RunFolder
from launcher.schema import Sweep
from launcher.sweep import slots, space, trial
from launcher.sweep.place import Place
from launcher.sweep.store import BEAT_SECONDS, STALE_SECONDS, STORAGE_TROUBLE, Claimed, Store
from launcher.sweep.trial import Trial

LOOK_SECONDS, ASK_SECONDS = 0.1, 1.0
BEAR_SECONDS = STALE_SECONDS / 2  # without a storage, before all ends
MOST_RESTARTS = 3  # of a trial that somebody else keeps stopping
PRUNER_STARTUP_TRIALS, REDUCTION_FACTOR = 5, 4


class Crew:
    """`sweep.workers` trials at a time. `note` is called after each trial that has ended."""

    def __init__(self, place: Place, store: Store, sweep: Sweep, num_trials: int, note: Callable[[], None]):
        self.place, self.store, self.sweep, self.num_trials, self.note = place, store, sweep, num_trials, note
        self.metric, self.seed = str(place.asked["sweep"]["metric"]), int(place.asked["sweep"]["seed"])
        self.pruner = _pruner(sweep)
        self.slots = slots.environments(sweep.workers, sweep.nproc)
        self.working: list[Trial] = []
        self._ask_at = 0.0
        self._heard: dict[int, float] = {}
        self._trouble_since: float | None = None

    def work(self, stop: StopRequest) -> None:
        """Until no trial is left to take, or a stop is asked for: then each saves itself, and the next start goes on with it."""
        try:
            while True:
                if stop.asked:
                    self._ask_all_to_end()
                try:
                    if self._turn(stop):
                        return
                    self._trouble_since = None
                except STORAGE_TROUBLE as error:
                    self._bear(error)
                time.sleep(LOOK_SECONDS)
        finally:
            for one in self.working:
                one.kill()

    def _ask_all_to_end(self) -> None:
        asked = [one.number for one in self.working if one.ask_to_end()]
        if asked:
            log.say(
                f"stopping: trials save themselves first ({', '.join(map(str, asked))}); a second Ctrl-C ends them at once"
            )

    def _turn(self, stop: StopRequest) -> bool:
        """Look at each trial once and take another where there is room; True when all is done."""
        for one in list(self.working):
            self._look(one, stop)
        if stop.asked:
            return not self.working
        if len(self.working) < self.sweep.workers and time.monotonic() >= self._ask_at:
            self._take()
        return not self.working and self._ask_at > 0 and not self._may_be_left()

    def _bear(self, error: Exception) -> None:
        """Trials do not need the storage, so a while without it is no reason to end them; nobody else takes them so soon."""
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
            log.say(
                f"WARNING: the sweep's storage does not answer ({error.__class__.__name__}); trials go on meanwhile"
            )
        if time.monotonic() - self._trouble_since > BEAR_SECONDS:
            raise error
        time.sleep(LOOK_SECONDS * 10)

    def _may_be_left(self) -> bool:
        """Whether a trial is about to be free: its worker is gone, or has said nothing since this one has nothing to do."""
        held = self.store.held(self.place)
        self._heard = {number: self._heard.get(number, beat) for number, beat in held.items()}
        return any(beat == self._heard[number] for number, beat in held.items())

    # --- taking -------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        with self.store.locked():
            claimed = self.store.claim(self.place, self.num_trials, {one.number for one in self.working})
            if claimed is None:
                self._ask_at = time.monotonic() + ASK_SECONDS
                return
            values = space.values(self.store.study(), claimed.trial_id, claimed.number, self.sweep, self.seed)
        self._ask_at = 0.0
        if not (self._ended_before(claimed, values) or self._was_tried(claimed, values)):
            self._begin(claimed, values)

    def _begin(self, claimed: Claimed, values: Mapping[str, Any]) -> None:
        words = [override(key, value) for key, value in values.items()]
        verb = "trial" if claimed.is_new else "going on with trial"
        log.say(f"{verb} {claimed.number} of {self.num_trials}: {' '.join(words)}")
        folder = self.place.trial(claimed.number)
        try:
            recipe.load(self.place.recipe, words)
        except LauncherError as error:  # values that are right each alone
            return self._fail(claimed.trial_id, claimed.number, error.exit_code, str(error), None)
        slot = min(set(range(self.sweep.workers)) - {one.slot for one in self.working})
        process = self._start(claimed.number, values, slot)
        there = self.store.storage.get_trial(claimed.trial_id)
        seen = set(there.intermediate_values)
        self.working.append(
            Trial(claimed.trial_id, claimed.number, values, RunFolder(folder), slot, process, seen=seen)
        )

    def _start(self, number: int, values: Mapping[str, Any], slot: int) -> subprocess.Popen[bytes]:
        words = trial.command(self.place, number, values, self.sweep.nproc)
        return trial.start(words, self.place.trial(number), self.slots[slot])

    def _ended_before(self, claimed: Claimed, values: Mapping[str, Any]) -> bool:
        """Whether a trial that was left had come to its end already, and only nobody had written it down."""
        folder = RunFolder(self.place.trial(claimed.number))
        last = (folder.attempts() or [{}])[-1]
        code = last.get("exit_code") if last.get("event") == "end" else None
        there = self.store.storage.get_trial(claimed.trial_id)
        pruned_at, seen = there.user_attrs.get("pruned_at"), set(there.intermediate_values)
        if pruned_at is None and (not isinstance(code, int) or code in trial.ENDED_BY_REQUEST):
            return False
        one = Trial(claimed.trial_id, claimed.number, values, folder, seen=seen, pruned_at=pruned_at)
        self._report(one)
        self._conclude(one, code or 0)
        return True

    def _was_tried(self, claimed: Claimed, values: Mapping[str, Any]) -> bool:
        """Whether a finished trial has the same values: its result is this one's, since the same training would give the same."""
        for other in self.store.trials():
            is_twin = other.number != claimed.number and space.values_of(other, self.sweep) == dict(values)
            if is_twin and other.state in (TrialState.COMPLETE, TrialState.PRUNED):
                twin = other.user_attrs.get("same_as", other.number)
                self.store.set(claimed.trial_id, "same_as", twin)
                self.store.finish(claimed.trial_id, other.state, other.value)
                log.say(f"trial {claimed.number} of {self.num_trials}: has the values of trial {twin}, and its result")
                self.note()
                return True
        return False

    # --- watching -----------------------------------------------------------------------------------------------------

    def _look(self, one: Trial, stop: StopRequest) -> None:
        code = one.code()  # before its folder is read: what it wrote last is then there
        if time.monotonic() - one.beat_at > BEAT_SECONDS:
            one.beat_at = time.monotonic()
            if not self.store.confirm(one.trial_id):
                log.say(f"WARNING: trial {one.number} has become another worker's; it is left to that one")
                one.kill()
                self.working.remove(one)
                return
        self._report(one)
        if code is None:
            one.insist()
        elif one.pruned_at is None and code in trial.ENDED_BY_REQUEST and self._may_go_on(one, stop):
            self._go_on(one, stop)
        else:
            self._conclude(one, code)
            self.working.remove(one)

    def _report(self, one: Trial) -> None:
        """Each new evaluation in its order, whenever it is seen, so that what is decided does not depend on the time."""
        for step, value in one.evaluations(self.metric):
            if one.pruned_at is not None:
                break
            self.store.report(one.trial_id, step, value)
            if self.pruner.prune(self.store.study(), self.store.storage.get_trial(one.trial_id)):
                self.store.set(one.trial_id, "pruned_at", step)
                one.pruned_at = step
                one.ask_to_end()
            one.seen.add(step)
        one.is_read()

    def _may_go_on(self, one: Trial, stop: StopRequest) -> bool:
        return stop.asked or one.restarts < MOST_RESTARTS

    def _go_on(self, one: Trial, stop: StopRequest) -> None:
        """A trial that was stopped: left for the next start of the sweep, or, if somebody else stopped it, started again."""
        if stop.asked:
            self.store.set(one.trial_id, "seconds", gather(one.folder).seconds)
            self.store.release(one.trial_id)
            self.working.remove(one)
            log.say(f"trial {one.number}: stopped; --resume auto goes on with it")
            return
        log.say(f"trial {one.number}: somebody stopped it; going on with it")
        one.restarts, one.asked_at = one.restarts + 1, None
        one.process = self._start(one.number, one.values, one.slot)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def _conclude(self, one: Trial, code: int) -> None:
        found = trial.outcome(one.folder, self.metric, code)
        self.store.set(one.trial_id, "seconds", found.seconds)
        if one.pruned_at is not None:
            value = self.store.storage.get_trial(one.trial_id).intermediate_values[one.pruned_at]
            return self._prune(one.trial_id, one.number, one.pruned_at, value)
        if found.value is None:
            return self._fail(one.trial_id, one.number, code, found.error, found.seconds)
        self.store.set(one.trial_id, "step", found.step)
        self.store.finish(one.trial_id, TrialState.COMPLETE, found.value)
        at = f"at step {found.step}, {duration(found.seconds)}"
        log.say(f"trial {one.number}: {self.metric} {number(found.value)} {at}")
        self.note()

    def _prune(self, trial_id: int, trial_number: int, step: int, value: float) -> None:
        self.store.set(trial_id, "step", step)
        self.store.finish(trial_id, TrialState.PRUNED, value)
        log.say(f"trial {trial_number}: given up at step {step} with {self.metric} {number(value)}")
        self.note()

    def _fail(self, trial_id: int, trial_number: int, code: int, error: str, seconds: float | None) -> None:
        self.store.set(trial_id, "exit_code", code)
        self.store.set(trial_id, "error", error)
        self.store.finish(trial_id, TrialState.FAIL, None)
        log.say(f"trial {trial_number}: FAILED with {code}: {error}")
        self.note()


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    if sweep.pruner == "median":
        startup = PRUNER_STARTUP_TRIALS if sweep.pruner_startup_trials is None else sweep.pruner_startup_trials
        return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=sweep.pruner_warmup_steps or 0)
    if sweep.pruner == "asha":
        factor = sweep.reduction_factor or REDUCTION_FACTOR
        return optuna.pruners.SuccessiveHalvingPruner(sweep.pruner_warmup_steps or "auto", factor)
    return optuna.pruners.NopPruner()
