"""A checkpoint is whole or absent; the newest good one is found; the best and the newest are kept."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import checkpoint, saved_state
from launcher.checkpoint import Checkpoint, Checkpoints
from launcher.errors import CheckpointError, StorageError


class OneRank:
    """As much of an engine as checkpoints need."""

    is_main, world_size, rank = True, 1, 0

    def broadcast(self, thing):
        return thing

    def gather(self, thing):
        return [thing]

    def barrier(self) -> None:
        """One rank waits for nobody."""


def write(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(os.urandom(1000))
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / "state").write_bytes(os.urandom(500))


@pytest.fixture
def three(tmp_path: Path) -> Checkpoints:
    """Checkpoints of steps 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path, 3, OneRank())
    for step in (1, 2, 3):
        checkpoints.save(step, {"progress": {}}, [write], None)
    return checkpoints


def steps(checkpoints: Checkpoints) -> list[int]:
    return [found.step for found in checkpoints.published()]


def test_the_newest_is_taken(three: Checkpoints) -> None:
    assert three.newest_good() == Checkpoint(three.root / "step-00000003")
    assert (three.root / "latest").read_text() == "step-00000003\n"


@pytest.mark.parametrize("name", ["MANIFEST.json", "state.json", "model/weights", "optimizer/state"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "swap"])
def test_any_damage_to_any_file_is_noticed(three: Checkpoints, name: str, damage: str) -> None:
    path = three.root / "step-00000003" / name
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "swap":
        path.write_bytes((three.root / "step-00000002" / name).read_bytes())
    else:
        flipped = content[:40] + bytes([content[40] ^ 4]) + content[41:]
        path.write_bytes({"flip": flipped, "truncate": content[:-1], "empty": b""}[damage])
    assert three.newest_good().step == 2
    assert steps(three) == ([1, 2])


def test_all_damaged_is_an_error_and_none_at_all_is_not(three: Checkpoints, tmp_path: Path) -> None:
    for found in three.published():
        (found.folder / "model" / "weights").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints"):
        three.newest_good()
    assert Checkpoints(tmp_path / "new", 3, OneRank()).newest_good() is None


def test_a_file_that_is_not_in_the_manifest_is_no_harm(three: Checkpoints) -> None:
    """File systems and people leave things behind (.nfs0001, .DS_Store)."""
    (three.root / "step-00000003" / ".DS_Store").write_bytes(b"x")
    assert three.newest_good().step == 3


@pytest.mark.parametrize("step_of_failure", range(1, 12))
def test_a_full_disk_at_any_point_leaves_the_older_ones(three: Checkpoints, monkeypatch, step_of_failure: int) -> None:
    """The n-th call that touches the disk fails; whatever n is, nothing half-written is published."""
    calls = 0

    def failing(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step_of_failure:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args, **kwargs)

        return call

    for owner, name in ((os, "fsync"), (os, "replace"), (checkpoint, "_fingerprint")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    try:
        three.save(4, {"progress": {}}, [write], None)
        failed = False
    except StorageError as error:
        failed = True
        assert error.exit_code == 90 and "No space left" in str(error)
    monkeypatch.undo()
    assert failed
    assert three.newest_good().step >= 3 and not three.newest_good().problems()
    assert not list(three.root.glob(".tmp-*"))


def test_a_kill_while_saving_leaves_nothing_that_counts(three: Checkpoints, tmp_path: Path) -> None:
    staged = three.root / ".tmp-step-00000004-abcd"
    shutil.copytree(three.root / "step-00000003", staged)
    assert three.newest_good().step == 3
    Checkpoints(tmp_path, 3, OneRank())  # the next start sweeps
    assert not staged.exists()


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, OneRank())
    for step in range(1, 8):
        checkpoints.save(step, {}, [write], best_step=2 if step >= 2 else None)
    assert steps(checkpoints) == [2, 6, 7]


def test_a_published_checkpoint_is_never_written_again(three: Checkpoints) -> None:
    before = (three.root / "step-00000003" / "model" / "weights").read_bytes()
    three.save(3, {}, [write], None)
    assert (three.root / "step-00000003" / "model" / "weights").read_bytes() == before


def test_files_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch) -> None:
    """Every file and folder is synced before the rename, and the parent after it."""
    events: list[str] = []
    sync, replace = checkpoint._sync, os.replace
    monkeypatch.setattr(checkpoint, "_sync", lambda path: (events.append(path.name), sync(path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    Checkpoints(tmp_path, 2, OneRank()).save(1, {}, [write], None)
    renamed = events.index("rename")
    assert {"weights", "state", "model", "optimizer", "state.json", "MANIFEST.json"} <= set(events[:renamed])
    assert events[renamed + 1] == "checkpoints"


class OptimizerOnly(OneRank):
    """Linear layers of these widths and an optimizer, as the engine would show them."""

    def __init__(self, *widths: int, **options) -> None:
        import torch

        from launcher.engine.replicated import Replicated

        self.objective = torch.nn.Sequential(*[torch.nn.Linear(width, 2) for width in widths])
        self.optimizer = torch.optim.AdamW(self.objective.parameters(), **options)
        strategy = SimpleNamespace(objective=self.objective, optimizer=self.optimizer)
        self.optimizer_states = lambda: Replicated.optimizer_states(strategy)
        self.load_optimizer_states = lambda states: Replicated.load_optimizer_states(strategy, states)

    def train(self, steps: int = 3) -> "OptimizerOnly":
        import torch

        for _ in range(steps):
            torch.cat([layer(torch.randn(5, layer.in_features)) for layer in self.objective]).square().sum().backward()
            self.optimizer.step()
        return self


def test_an_optimizer_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    import torch

    trained, fresh = OptimizerOnly(4, 3, fused=True).train(), OptimizerOnly(4, 3, fused=True)
    saved_state.save_optimizer(tmp_path / "optimizer", trained)
    saved_state.load_optimizer(tmp_path / "optimizer", fresh)
    before, after = (e.optimizer.state_dict()["state"] for e in (trained, fresh))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])


def test_an_optimizer_without_a_step_has_no_state(tmp_path: Path) -> None:
    saved_state.save_optimizer(tmp_path / "optimizer", OptimizerOnly(4))
    saved_state.load_optimizer(tmp_path / "optimizer", fresh := OptimizerOnly(4))
    assert not fresh.optimizer.state_dict()["state"]


def test_an_optimizer_state_of_other_parameters_is_refused_by_name(tmp_path: Path) -> None:
    saved_state.save_optimizer(tmp_path / "more", OptimizerOnly(2, 2).train())
    with pytest.raises(CheckpointError, match=r"trained 1\.(bias|weight)"):
        saved_state.load_optimizer(tmp_path / "more", OptimizerOnly(2))
    saved_state.save_optimizer(tmp_path / "less", OptimizerOnly(2).train())
    with pytest.raises(CheckpointError, match=r"no optimizer state for 1\.bias"):
        saved_state.load_optimizer(tmp_path / "less", OptimizerOnly(2, 2))


def test_a_run_folder_that_cannot_be_made_is_an_error_on_every_rank(recipe: Path, tmp_path: Path) -> None:
    """Rank zero alone tries; the others are told, so that none of them waits for it."""
    from launcher import output
    from launcher.recipe import load

    told = []
    engine = OneRank()
    engine.broadcast = lambda thing: told.append(pickle.dumps(thing)) or thing
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/run: the run folder cannot be written to: Not a directory; set"):
        output.choose(load(recipe, [f"output_dir={tmp_path / 'file' / 'run'}"]), None, engine)
    assert isinstance(pickle.loads(told[0]), StorageError)


def test_state_json_holds_no_pickle_and_no_python(three: Checkpoints) -> None:
    assert json.loads((three.root / "step-00000001" / "state.json").read_text())["step"] == 1
