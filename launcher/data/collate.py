"""Rows of token ids to tensors, padded or packed. Labels come out shifted: position t predicts `labels[t]`."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

IGNORED = -100  # as in launcher.losses, which needs more than this file may import
Row = tuple[np.ndarray, np.ndarray]  # ids, trained
Batch = dict[str, torch.Tensor]


def padded(units: Sequence[Sequence[int]], read: Callable[[int], Row], pad_token_id: int) -> Batch:
    """One example a row, padded on the right. All tensors have shape (examples, longest), int64.

    An empty list of units gives one row of padding without labels: a rank that has nothing to do still takes part.
    """
    rows = [read(int(index)) for unit in units for index in unit]
    width = max((len(ids) for ids, _ in rows), default=1)
    input_ids, labels, attention_mask = _blank(len(rows), width, pad_token_id)
    for r, (ids, trained) in enumerate(rows):
        input_ids[r, : len(ids)] = ids
        labels[r, : len(ids)] = _shifted(ids, trained)
        attention_mask[r, : len(ids)] = 1
    attention_mask[:, 0] = 1  # a row that sees nothing at all would be softmax over nothing: NaN
    return _tensors(input_ids=input_ids, labels=labels, attention_mask=attention_mask)


def packed(units: Sequence[Sequence[int]], read: Callable[[int], Row], pad_token_id: int, flat: bool = False) -> Batch:
    """Several examples a row; `position_ids` begin again at 0 with each, which is how Transformers keeps them apart.

    Padding behind the last example has position 0 throughout, so each pad token sees itself alone. With `flat` all
    units become one long row without padding, as variable-length attention kernels want it.
    """
    bins = [[read(int(index)) for index in unit] for unit in units]
    if flat:
        bins = [[row for members in bins for row in members]] if bins else []
    width = max((sum(len(ids) for ids, _ in members) for members in bins), default=1)
    input_ids, labels, position_ids = _blank(len(bins), width, pad_token_id)
    for r, members in enumerate(bins):
        start = 0
        for ids, trained in members:
            span = slice(start, start := start + len(ids))
            input_ids[r, span], labels[r, span] = ids, _shifted(ids, trained)
            position_ids[r, span] = np.arange(len(ids))
    return _tensors(input_ids=input_ids, labels=labels, position_ids=position_ids)


def _blank(num_rows: int, width: int, pad_token_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (max(1, num_rows), width)
    return np.full(shape, pad_token_id), np.full(shape, IGNORED), np.zeros(shape, dtype=np.int64)


def _shifted(ids: np.ndarray, trained: np.ndarray) -> np.ndarray:
    labels = np.full(len(ids), IGNORED)
    labels[:-1] = np.where(trained[1:], ids[1:], IGNORED)
    return labels


def _tensors(**arrays: np.ndarray) -> Batch:
    return {name: torch.from_numpy(array.astype(np.int64, copy=False)) for name, array in arrays.items()}
