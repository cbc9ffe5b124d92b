"""Activation checkpointing (Chen et al., arXiv:1604.06174): a layer keeps its input alone and is computed again for its gradients.

What a layer is, transformers says: every model that can be checkpointed is built of `GradientCheckpointingLayer`s. Only while
they train do they compute twice: evaluation and generation run as ever, with their cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from launcher.errors import RecipeError

# Not the reentrant kind: this one needs no gradient of its input, so that layers below the first trained one cost nothing. It stops
# at the last tensor that is asked for; if it ran on to its end, DeepSpeed's ZeRO-3 would take the weights away before their use.
_recomputed = partial(checkpoint, use_reentrant=False, early_stop=True)


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model in its order; a layer inside a layer is not one: it would be computed three times."""
    if isinstance(model, GradientCheckpointingLayer):
        return [model]
    return list(dict.fromkeys(layer for child in model.children() for layer in layers(child)))


def checkpoint_layers(model: nn.Module, interval: int | None, offload: bool = False) -> None:
    """The first layer and every `interval`-th after it keep only their input, in pinned CPU memory with `offload`. None: no layer.

    Call it when the adapter is in place: PEFT sends gradients down to the embedding of a model that it finds checkpointing.
    """
    found = layers(model)
    for module in model.modules():  # some configurations on the hub switch it on
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    if interval is None:
        return
    assert 1 <= interval <= len(found), f"{interval} of {len(found)} layers: the plan refuses it"
    for layer in found[::interval]:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = _offloaded if offload else _recomputed


def _offloaded(layer: Callable[..., Any], *inputs: Tensor) -> Any:
    """The hidden states, always the first argument, wait in CPU memory; masks and the like are shared by all layers and stay."""
    if not inputs:
        raise RecipeError(
            "training.activation_offloading: the layers of this model take their hidden states by name, where they cannot be found",
            fix="set training.activation_offloading=false",
        )
    hidden_states, *shared = inputs
    with save_on_cpu(pin_memory=True, device_type=hidden_states.device.type):
        return _recomputed(lambda states: layer(states, *shared), hidden_states)
