"""Hosts with copies of their own: what differs is an error before the first step that names the hosts."""

import shutil
from pathlib import Path

import pytest
import tiny

from .conftest import TEN_STEPS
from .hosts import Host, Ranks

pytestmark = pytest.mark.multinode


def test_another_recipe_and_other_rows_are_refused(
    recipe: Path, hosts: list[Host], caches: list[str], tmp_path: Path
) -> None:
    train = hosts[1].has_of_its_own(recipe.parent / "train.jsonl")
    train.write_text("".join(train.read_text().splitlines(keepends=True)[1:]))
    words = ["train", str(recipe), *TEN_STEPS, f"output_dir={tmp_path / 'run'}"]
    ranks = Ranks([words, [*words, "seed=7", "--resume", "auto"]], tmp_path / "log", hosts, XDG_CACHE_HOME=caches)
    assert ranks.wait() == [89, 89]
    for rank in range(2):
        said = ranks.output(rank)
        assert "  seed: 42 on node0 (rank 0), 7 on node1 (rank 1)\n" in said
        assert "  --resume: null on node0 (rank 0), auto on node1 (rank 1)\n" in said
        assert "  data.train.0: 22 rows of train.jsonl (" in said and ") on node0 (rank 0), 21 rows of" in said
        assert "data.eval.0:" not in said
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_not_shared_is_refused(recipe: Path, hosts: list[Host], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    hosts[1].has_of_its_own(tmp_path / "disk")
    words = ["train", str(recipe), *TEN_STEPS, f"output_dir={tmp_path / 'disk' / 'run'}"]
    ranks = Ranks([words] * 2, tmp_path / "log", hosts)
    assert ranks.wait() == [89, 89]
    said = (
        f"{tmp_path / 'disk' / 'run'}: the run folder of node0 (rank 0) is another one, or none, on node1 (rank 1); put"
    )
    assert said in ranks.output(0) and said in ranks.output(1)
    assert list((tmp_path / "disk" / "run").iterdir()) == []


def test_the_same_files_at_another_place_are_taken(
    recipe: Path, one_process: Path, hosts: list[Host], tmp_path: Path
) -> None:
    copy = shutil.copytree(recipe.parent, hosts[1].folder / "copy")
    words = [*TEN_STEPS, f"output_dir={tmp_path / 'run'}"]
    both = [["train", str(recipe), *words], ["train", str(copy / recipe.name), *words]]
    ranks = Ranks(both, tmp_path / "log", hosts)
    assert ranks.wait() == [0, 0], ranks.output(0)
    assert tiny.losses(tmp_path / "run") == pytest.approx(tiny.losses(one_process), rel=1e-5)
