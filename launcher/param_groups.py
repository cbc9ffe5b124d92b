"""The trained parameters in groups, as optimizers want them."""

from itertools import groupby
from typing import Any

from torch import nn

from launcher import parts
from launcher.recipe import Recipe
from launcher.shards import full_shape


def of(objective: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of one `weight_decay`, one `lr_scale` (a factor on the learning rate), one dtype, and `hidden` or not.

    Norms and biases (every tensor of fewer than two dimensions) do not decay. `hidden`: a weight matrix inside the model, neither
    an embedding nor a head; Muon is for those. One dtype, because ZeRO flattens a group into one tensor.
    """
    options, adapter = recipe.optimizer, parts.load("adapters", recipe.method)
    hidden = hidden_matrices(objective.model)

    def traits(named: tuple[str, nn.Parameter]) -> tuple[bool, float, str, bool]:
        name, parameter = named
        scale = 1.0
        if hasattr(adapter, "lr_scale"):
            scale = adapter.lr_scale(name, len(full_shape(parameter)), recipe.adapter, options.learning_rate)
        return len(full_shape(parameter)) < 2, scale, str(parameter.dtype), id(parameter) in hidden

    trained = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for _, parameter in members],
            "weight_decay": 0.0 if is_vector else options.weight_decay,
            "lr_scale": scale,
            "hidden": is_hidden,
        }
        for (is_vector, scale, _, is_hidden), members in groupby(sorted(trained, key=traits), key=traits)
    ]


def hidden_matrices(model: Any) -> set[int]:
    """Ids of the two-dimensional parameters below the head of a Hugging Face model that belong to no embedding."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = base.base_model
    embeddings = [m for m in body.modules() if isinstance(m, nn.Embedding) or isinstance(_wrapped(m), nn.Embedding)]
    apart = {id(parameter) for embedding in embeddings for parameter in embedding.parameters()}
    return {id(p) for p in body.parameters() if len(full_shape(p)) == 2} - apart


def _wrapped(module: nn.Module) -> Any:
    """What PEFT has wrapped (LoRA, trainable tokens, a trained copy), if this is such a wrapper."""
    return getattr(module, "base_layer", None) or getattr(module, "original_module", None)
