"""What a plan must know of a model."""

from collections.abc import Callable
from dataclasses import dataclass

LossWay = Callable[[int, str, str, str], str]  # from tokens a micro-batch, precision, model_dtype and device


@dataclass(frozen=True)
class ModelFacts:
    """What the shapes alone tell of a model with its adapter; no weight is read for it."""

    architecture: str
    parameters: int
    trainable: int
    max_positions: int | None
    has_dropout: bool
    loss: str
    loss_reason: str
    source: str
    loss_way: LossWay | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
