"""Options that every optimizer has: which parameters decay, and how the learning rate differs between parts of the model."""

from typing import Annotated

from pydantic import AfterValidator, Field

from launcher.schema.values import Selector, Selectors
from launcher.section import FrozenDict, Section, freeze

Factor = Annotated[float, Field(gt=0)]


class OptimizerOptions(Section):
    """What `launcher.param_groups` makes groups of. Parts of the model are named as under `freeze` of the recipe."""

    no_decay: Selectors = ()
    """What weight_decay leaves out beside norms and biases: head, embeddings, layers[:6], or patterns of parameters' names."""
    layer_lr_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Each layer learns slower than the one above it by this factor, the embeddings slowest (Bao et al., arXiv:2106.08254)."""
    lr_multipliers: Annotated[dict[Selector, Factor], AfterValidator(freeze)] = FrozenDict()
    """Part of the model -> factor on its learning rate; of several that mean a parameter, the last holds."""
