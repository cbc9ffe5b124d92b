"""The plan's bytes against those that a rank really holds: for every strategy, to the byte, on a model whose sizes are odd."""

from collections.abc import Iterator
from pathlib import Path

import census
import pytest
import tiny
from workers import Workers

WIDE = {"hidden_size": 64, "intermediate_size": 192}  # whole blocks, for quantised layers
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
        tiny.save_model(folder / "model", **ODD)
        tiny.save_tokenizer(folder / "wide")
        tiny.save_model(folder / "wide", **WIDE)
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


CELLS = [(method, strategy) for method in METHODS for strategy in ("ddp", "zero1", "zero2", "zero3")]


@pytest.mark.parametrize(
    ("method", "strategy"),
    # DeepSpeed's own autocast, which exchanges in two types, is for zero3.
    [cell for cell in CELLS if "autocast" not in cell[0] or cell[1] in ("zero2", "zero3")],
)
def test_two_ranks_hold_what_is_planned(stock: Census, method: str, strategy: str) -> None:
    check(stock.of(2, *METHODS[method], f"distributed.strategy={strategy}"))


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_a_quantised_base_is_held_as_it_is_planned(stock: Census, strategy: str) -> None:
    pytest.importorskip("bitsandbytes")
    words = ["method=qlora", f"model.name_or_path={stock.folder / 'wide'}", "adapter.r=3"]
    check(stock.of(2, *words, f"distributed.strategy={strategy}"))


def check(ranks: list[dict]) -> None:
    for part in census.PARTS:
        assert max(rank["found"][part] for rank in ranks) == ranks[0]["planned"][part], part


@pytest.mark.parametrize("strategy", ["none", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("method", ["lora", "full bf16"])
def test_a_single_process_holds_what_is_planned(stock: Census, method: str, strategy: str) -> None:
    check(stock.of(1, *METHODS[method], f"distributed.strategy={strategy}"))


ONE_MICRO_BATCH = ["training.global_batch_size=2"]


@pytest.mark.parametrize(
    ("method", "strategy", "more"),
    [
        ("full", "ddp", ONE_MICRO_BATCH),
        ("full", "zero1", ONE_MICRO_BATCH),
        ("lora", "zero2", ["optimizer.name=sgd", "optimizer.weight_decay=0.0"]),
        ("full", "zero3", ["optimizer.name=sgd", "optimizer.momentum=0.9"]),
        ("full", "zero3", ["distributed.deepspeed_config={zero_optimization: {sub_group_size: 3000}}"]),
        ("full", "ddp", ["optimizer.name=adafactor"]),
        ("full", "zero1", ["training.precision=fp16"]),
        ("lora", "zero2", ["training.precision=fp16"]),
        ("full", "zero3", ["training.precision=fp16"]),
    ],
)
def test_batch_optimizer_and_configuration_count(stock: Census, method: str, strategy: str, more: list[str]) -> None:
    check(stock.of(2, *METHODS[method], f"distributed.strategy={strategy}", *more))


@pytest.mark.parametrize(
    ("method", "strategy", "more"),
    [
        ("full", "zero1", []),
        ("full", "zero2", []),
        ("full", "zero2", ONE_MICRO_BATCH),
        ("full bf16", "zero1", []),
        ("full bf16", "zero2", []),
        ("full", "zero3", []),
        ("full bf16", "zero3", ["distributed.offload_param=cpu"]),
    ],
)
def test_what_is_offloaded_is_counted_for_the_node(stock: Census, method: str, strategy: str, more: list[str]) -> None:
    """Without a GPU both memories are one, so the sums are compared."""
    words = [f"distributed.strategy={strategy}", "distributed.offload_optimizer=cpu", *more]
    ranks = stock.of(2, *METHODS[method], *words)
    planned = sum(ranks[0]["planned"].values()) + ranks[0]["on host"]
    assert max(sum(rank["found"].values()) for rank in ranks) == planned
