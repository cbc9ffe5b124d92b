"""TensorBoard event files in the run folder (`tensorboard --logdir runs`). Needs the extra `tensorboard`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if "/" in name:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open(folder: Path, plan: Any) -> TensorBoard:
    return TensorBoard(folder)
