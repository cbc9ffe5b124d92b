"""The plan's total against the most that the allocator has handed out in a step."""

from collections.abc import Iterator
from pathlib import Path

import peak_memory
import pytest
import tiny
from peak_memory import LENGTH, ROWS, SHAPE
from workers import Workers

FULL, BF16 = ["method=full", "adapter=null"], ["training.precision=bf16"]
RECOMPUTE = ["training.gradient_checkpointing=true"]
# world, recipe. Sharding runs in two ranks, everything else in one.
CASES = {
    "full, recomputed": (1, [*FULL, *RECOMPUTE]),
    "full, plain loss": (1, [*FULL, "loss.implementation=torch"]),
    "full, smoothed": (1, [*FULL, "loss.label_smoothing=0.1"]),
    "lora, R-Drop": (1, ["loss.r_drop_alpha=1.0", "adapter.lora_dropout=0.1"]),
    "lora bf16, every second layer": (1, [*BF16, *RECOMPUTE, "training.gradient_checkpointing_interval=2"]),
    "lora packed": (1, ["data.packing=true"]),
    "full zero2": (2, [*FULL, "distributed.strategy=zero2"]),
    "full bf16 zero3": (2, [*FULL, *BF16, "model.dtype=bf16", "distributed.strategy=zero3"]),
}


@pytest.fixture(scope="module")
def ranks() -> Iterator[dict[int, Workers]]:
    made = {world: Workers(world) for world in (1, 2)}
    yield made
    for workers in made.values():
        workers.close()


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny.make(tmp_path_factory.mktemp("peak"))
    tiny.save_model(path.parent / "model", max_position_embeddings=LENGTH, **SHAPE)
    return path


@pytest.mark.parametrize("case", CASES)
def test_the_total_is_what_a_step_allocates(
    ranks: dict[int, Workers], recipe_file: Path, tmp_path: Path, case: str
) -> None:
    """It may be a fifth too much, and a twentieth too little: the card needs room, and a refusal needs a reason."""
    world, words = CASES[case]
    batch = [f"data.max_length={LENGTH}", f"training.per_device_train_batch_size={ROWS}"]
    batch.append(f"training.global_batch_size={2 * ROWS * world}")
    log = tmp_path / "log"
    answers = ranks[world].call(peak_memory.take, str(recipe_file), [*batch, *words], log=log)
    assert None not in answers, log.read_text()[-4000:]
    for planned, least, most in answers:
        assert 0.95 * least < planned < 1.2 * most, (planned, least, most)
        assert most < 1.15 * least, "the log of the allocator tells too little"
