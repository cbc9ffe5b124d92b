"""Every parameter of a model with its adapter, as far as memory goes. From shapes: the model needs no storage."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from launcher.model_facts import Stored, Weight
from launcher.quantized_layers import Layout

LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
)  # DeepSpeed's autocast exchanges the gradients of these, no other classes


def stored(base: nn.Module, layout: Layout | None) -> dict[int, Stored]:
    """Id of a parameter of the base -> how it is stored, for those that will be quantised."""
    if layout is None:
        return {}
    return {
        id(base.get_submodule(name).weight): Stored(*layout.scheme.parts(*layout.linear[name]))
        for name in layout.linear
    }


def of(model: Any, groups: Sequence[Mapping[str, Any]], quantised: Mapping[int, Stored]) -> tuple[Weight, ...]:
    """Each parameter once, in the model's order; `groups`: those of the optimizer."""
    group_of = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    linear = {id(p) for module in model.modules() if type(module) in LINEAR for p in module.parameters(recurse=False)}
    return tuple(
        Weight(
            shape=tuple(p.shape),
            trained=p.requires_grad,
            group=group_of.get(id(p), 0),
            hidden=p.requires_grad and groups[group_of[id(p)]]["hidden"],
            linear=id(p) in linear,
            stored=quantised.get(id(p)),
        )
        for p in model.parameters()
    )
