"""What a plan must know of a model."""

from dataclasses import dataclass
from math import prod

from launcher.activation_memory import Decoder
from launcher.task import LossWay
from launcher.weight_storage import Quantized


@dataclass(frozen=True)
class Stored:
    """Bytes of a quantised weight: its codes, one parameter of so many bytes; and its scales, which belong to it and are none."""

    codes: int
    scales: int


@dataclass(frozen=True)
class Weight:
    """One parameter of the model with its adapter.

    `group` and `hidden`: of the optimizer, if it is trained. `linear`: of a linear layer, whose gradients DeepSpeed exchanges
    in the precision of autocast. `stored`: where it is quantised.
    """

    shape: tuple[int, ...]
    trained: bool
    group: int = 0
    hidden: bool = False
    linear: bool = False
    stored: Stored | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class ModelFacts:
    """What the shapes alone tell of a model with its adapter; no weight is read for it.

    `vocabulary`: of a model whose output is logits of tokens. `head`: modules that an adapter trains in full, being new.
    `unused`: parameters that are trained and that the model's outputs do not depend on; None: not known. `layers`: how many
    transformers knows in it. `groups`: the optimizer's, in words. `loss_passes`, `loss_mixes_rows`: see `task.LossPlan`.
    """

    architecture: str
    parameters: int
    trainable: int
    max_positions: int | None
    has_dropout: bool
    loss: str
    loss_reason: str
    source: str
    loss_way: LossWay | None = None
    loss_passes: int = 1
    loss_mixes_rows: bool = False
    quantized: Quantized | None = None
    attention: str = "sdpa"
    num_layers: int | None = None
    hidden_size: int | None = None
    vocabulary: int | None = None
    recomputable_layers: int | None = None
    decoder: Decoder | None = None
    weights: tuple[Weight, ...] = ()
    module_classes: frozenset[str] = frozenset()
    head: tuple[str, ...] = ()
    has_batch_norm: bool = False
    groups: str = ""
    layers: int = 0
    unused: tuple[str, ...] | None = None
