"""What a position predicts is always the next token of its own example, or nothing."""

import random

import numpy as np
import pytest
import torch

from launcher.data.collate import IGNORED, Batch, Row, packed, padded

PAD = 99


def some_rows(seed: int, number: int = 12) -> list[Row]:
    """Every token id is unique, so that a label tells where it comes from."""
    chance, next_id = random.Random(seed), 100
    rows = []
    for _ in range(number):
        length = chance.choice([1, 2, 3, 7])
        trained = [chance.randint(0, 1) for _ in range(length)]
        rows.append((np.arange(next_id, next_id + length, dtype=np.int32), np.array(trained, dtype=np.int32)))
        next_id += length
    return rows


def targets(batch: Batch) -> dict[int, int]:
    """token -> the token that it predicts, of all positions with a label."""
    pairs = zip(batch["input_ids"].flatten().tolist(), batch["labels"].flatten().tolist(), strict=True)
    return {token: label for token, label in pairs if label != IGNORED}


def wanted(rows: list[Row]) -> dict[int, int]:
    return {int(ids[t]): int(ids[t + 1]) for ids, trained in rows for t in range(len(ids) - 1) if trained[t + 1]}


UNITS = [[0], [1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]


@pytest.mark.parametrize("seed", range(20))
def test_padded_packed_and_flat_have_the_same_targets_and_none_across_examples(seed: int) -> None:
    rows = some_rows(seed)
    ones = [[i] for i in range(len(rows))]
    assert targets(padded(ones, rows.__getitem__, PAD)) == wanted(rows)
    assert targets(padded(UNITS, rows.__getitem__, PAD)) == wanted(rows)
    assert targets(packed(UNITS, rows.__getitem__, PAD)) == wanted(rows)
    assert targets(packed(UNITS, rows.__getitem__, PAD, flat=True)) == wanted(rows)


@pytest.mark.parametrize("seed", range(5))
def test_positions_begin_again_with_each_example_and_padding_sees_itself_alone(seed: int) -> None:
    rows = some_rows(seed)
    batch = packed(UNITS, rows.__getitem__, PAD)
    for unit, ids, positions in zip(UNITS, batch["input_ids"], batch["position_ids"], strict=True):
        told = [(int(token), t) for i in unit for t, token in enumerate(rows[i][0])]
        told += [(PAD, 0)] * (len(ids) - len(told))
        assert list(zip(ids.tolist(), positions.tolist(), strict=True)) == told
    assert "attention_mask" not in batch, "with one, transformers no longer looks at the positions"


def test_flat_is_one_row_without_padding() -> None:
    rows = some_rows(0)
    batch = packed(UNITS, rows.__getitem__, PAD, flat=True)
    assert batch["input_ids"].tolist() == [np.concatenate([ids for ids, _ in rows]).tolist()]
    starts = [t for t, position in enumerate(batch["position_ids"][0].tolist()) if position == 0]
    assert starts == np.cumsum([0, *(len(ids) for ids, _ in rows)])[:-1].tolist()


def test_padding_is_masked_and_nothing_else() -> None:
    rows = some_rows(0)
    batch = padded([[i] for i in range(12)], rows.__getitem__, PAD)
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != PAD).long())
    assert batch["input_ids"].shape == (12, max(len(ids) for ids, _ in rows))


@pytest.mark.parametrize("flat", [False, True])
def test_a_rank_without_rows_gets_a_row_that_teaches_nothing_but_can_be_run(flat: bool) -> None:
    never = [].__getitem__
    for batch in (padded([], never, PAD), packed([], never, PAD, flat)):
        assert batch["input_ids"].tolist() == [[PAD]]
        assert batch["labels"].tolist() == [[IGNORED]]
    assert padded([], never, PAD)["attention_mask"].tolist() == [[1]], "a softmax over nothing is NaN"


def test_everything_is_int64() -> None:
    rows = some_rows(0)
    for batch in (padded(UNITS, rows.__getitem__, PAD), packed(UNITS, rows.__getitem__, PAD)):
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_rows_that_are_mapped_from_disk_are_not_written_to() -> None:
    ids, trained = np.arange(5, dtype=np.int32), np.ones(5, dtype=np.int32)
    ids.flags.writeable = trained.flags.writeable = False
    batch = packed([[0]], lambda _: (ids, trained), PAD)
    batch["input_ids"].zero_()
    assert ids.tolist() == [0, 1, 2, 3, 4]
