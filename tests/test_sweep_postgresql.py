"""A sweep whose trials are in a PostgreSQL database: what several machines share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import postgresql
import pytest
import sweeping
from sweeping import begun, insist_on_whole, recipe, started, wait_for

pytestmark = pytest.mark.skipif(bool(postgresql.missing()), reason=postgresql.missing())


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql.server() as address:
        yield address


def sweep(*words: str) -> int:
    return sweeping.main(list(words))


def test_two_workers_killed_and_resumed_leave_each_trial_once(database: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, trials=12, pruner="median", pruner_startup_trials=3, storage=database, study="killed")
    folder = tmp_path / "s"
    words = (str(path), f"output_dir={folder}", "--workers=2", "--resume", "auto")
    with started(*words, steps=6, seconds=0.05) as process:
        wait_for(lambda: begun(folder) > 4)
        os.killpg(process.pid, signal.SIGKILL)
    with started(*words, steps=6) as process:
        assert process.wait(60) == 0, process.stdout.read()
    insist_on_whole(folder, 12, steps=6)
    assert not (folder / "sweep.db").exists()


def test_two_machines_share_the_trials(database: str, tmp_path: Path) -> None:
    """Started at the same time, as the tasks of an array job are."""
    path, folder = recipe(tmp_path, trials=6, storage=database, study="shared"), tmp_path / "s"
    words = (str(path), f"output_dir={folder}", "--resume", "auto")
    with started(*words, steps=3, seconds=0.1) as one, started(*words, steps=3, seconds=0.1) as other:
        assert one.wait(60) == 0 and other.wait(60) == 0, one.stdout.read() + other.stdout.read()
        said = [one.stdout.read(), other.stdout.read()]
    insist_on_whole(folder, 6, steps=3)
    assert sum("begins" in text for text in said) == 1
    assert all("\ntrial " in text for text in said), said


def test_a_trial_of_a_machine_that_is_lost_is_taken_over_by_one_other(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.recipe import load
    from launcher.sweep import begin, store

    loaded = load(recipe(tmp_path, trials=1, storage=database, study="lost"), [f"output_dir={tmp_path / 's'}"])
    with monkeypatch.context() as there:
        there.setattr(store, "machine", lambda: "lost")
        place, lost = begin.opened(loaded, "auto")
        claimed = lost.claim(place, 1)
    here, other = (begin.opened(loaded, "auto")[1] for _ in range(2))
    assert here.claim(place, 1) is None and list(here.held(place)) == [0]
    monkeypatch.setattr(store, "STALE_SECONDS", -1.0)
    taken = here.claim(place, 1)
    assert taken is not None and (taken.number, taken.is_new) == (0, False)
    assert other.claim(place, 1) is None
    assert here.confirm(taken.trial_id)
    monkeypatch.setattr(store, "machine", lambda: "lost")
    assert not lost.confirm(claimed.trial_id)


def test_a_study_of_another_folder_is_refused(database: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = recipe(tmp_path, trials=1, storage=database, study="mine")
    assert sweep(str(path), f"output_dir={tmp_path / 'a'}") == 0
    for words in ([], ["--resume", "auto"]):
        assert sweep(str(path), f"output_dir={tmp_path / 'b'}", *words) == 89
        assert f"the storage holds another sweep named mine, in {tmp_path / 'a'}" in capsys.readouterr().err
    assert sweep(str(path), f"output_dir={tmp_path / 'b'}", "sweep.study=yours") == 0


def test_a_database_that_does_not_answer_is_an_error_without_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = recipe(tmp_path, trials=1, storage="postgresql://me:secret@/none?host=/nowhere")
    assert sweep(str(path), f"output_dir={tmp_path / 's'}") == 90
    said = capsys.readouterr().err
    assert "the sweep's storage:" in said and "--resume auto" in said and "secret" not in said
