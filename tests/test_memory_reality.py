"""The plan's bytes against those that a rank really holds: for every strategy, to the byte, on a model whose sizes are odd."""

from collections.abc import Iterator
from pathlib import Path

import census
import pytest
import tiny
from workers import Workers

ODD = {"hidden_size": 21, "intermediate_size": 35, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10}
METHODS = {
    "lora": ["adapter.r=3"],
    "full": ["method=full", "adapter=null"],
    "full bf16": ["method=full", "adapter=null", "training.precision=bf16", "model.dtype=bf16"],
    "full autocast": ["method=full", "adapter=null", "training.precision=bf16"],
    "lora autocast": ["adapter.r=3", "adapter.modules_to_save=[lm_head,norm]", "training.precision=bf16"],
}


class Census:
    """Takes stock in ranks that stay."""

    def __init__(self, folder: Path):
        self.recipe, self.folder = tiny.make(folder), folder
        tiny.save_model(folder / "model", num_hidden_layers=3, **ODD)
        self._ranks = {world: Workers(world) for world in (1, 2)}

    def of(self, world: int, *words: str) -> list[dict]:
        """By rank."""
        log = self.folder / "log"
        found = self._ranks[world].call(census.take, str(self.recipe), list(words), log=log)
        assert None not in found, log.read_text()[-4000:]
        return found

    def close(self) -> None:
        for ranks in self._ranks.values():
            ranks.close()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Census]:
    made = Census(tmp_path_factory.mktemp("census"))
    yield made
    made.close()


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_hold_what_is_planned(stock: Census, method: str, strategy: str) -> None:
    check(stock.of(2, *METHODS[method], f"distributed.strategy={strategy}"))


def check(ranks: list[dict]) -> None:
    for part in census.PARTS:
        assert max(rank["found"][part] for rank in ranks) == ranks[0]["planned"][part], part
