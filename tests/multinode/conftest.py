"""Two hosts for each test, and what one process on one host makes of the same recipe."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from . import hosts as namespaces
from .hosts import Host

# Short steps, 22 rows in batches of 4: the last batch of each epoch has 2 rows, and accumulation goes over two of them.
OPTIONS = ["evaluation.metrics=[loss]"]
TEN_STEPS = [*OPTIONS, "training.max_steps=10", "distributed.timeout_minutes=1"]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    """node0 and node1, each with an eth0 to the other."""
    if reason := namespaces.what_is_missing():
        pytest.skip(f"multinode: {reason}")
    pair = namespaces.pair(tmp_path)
    yield pair
    for host in pair:
        host.stop()


@pytest.fixture
def caches(hosts: list[Host]) -> list[str]:
    """A cache on a disk of its own for each host."""
    return [str(host.folder / "cache") for host in hosts]


@pytest.fixture(scope="session")
def one_process(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process on one host."""
    folder = tmp_path_factory.mktemp("one") / "run"
    ranks = tiny.Ranks(1, ["train", str(recipe), *TEN_STEPS, f"output_dir={folder}"], folder.with_suffix(".log"))
    assert ranks.wait() == [0], folder.with_suffix(".log").read_text()
    return folder


def prepared_in(cache: str) -> int:
    """How many sources were tokenised into a cache."""
    return sum(not name.endswith(".lock") for name in os.listdir(Path(cache, "launcher", "data")))
