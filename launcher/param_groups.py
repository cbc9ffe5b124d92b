"""The trained parameters in groups, as optimizers want them."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from math import prod
from typing import Any

from torch import nn

from launcher import parts, selection
from launcher.errors import RecipeError
from launcher.recipe import Recipe
from launcher.shards import full_shape


def of(objective: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of one `weight_decay`, one `lr_scale` (a factor on the learning rate), one dtype; `hidden`, `penalized`, `head`.

    Norms and biases (every tensor of fewer than two dimensions) do not decay, nor what `optimizer.no_decay` names. `hidden`: a
    weight matrix inside the model, neither an embedding nor a head; Muon is for those. One dtype, because ZeRO flattens a group
    into one tensor. `penalized`: what may decay. `head`: weights whose
    columns regularization.group_lasso shortens.
    """
    options, adapter = recipe.optimizer, parts.load("adapters", recipe.method)
    hidden, kept = hidden_matrices(objective.model), _ids(objective.model, _without_decay(objective.model, recipe))
    factors = {id(p): f for p, f in _factors(objective.model, recipe)}

    heads = _ids(objective.model, _head(objective.model, recipe))

    def traits(named: tuple[str, nn.Parameter]) -> tuple[bool, float, str, bool, bool]:
        name, parameter = named
        scale, is_vector = factors.get(id(parameter), 1.0), len(full_shape(parameter)) < 2
        if hasattr(adapter, "lr_scale"):
            scale *= adapter.lr_scale(name, len(full_shape(parameter)), recipe.adapter, options.learning_rate)
        of_head = id(parameter) in heads and not is_vector
        return is_vector or id(parameter) in kept, scale, str(parameter.dtype), id(parameter) in hidden, of_head

    trained = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for _, parameter in members],
            "weight_decay": 0.0 if is_kept else options.weight_decay,
            "lr_scale": scale,
            "hidden": is_hidden,
            "penalized": not is_kept,
            "head": of_head,
        }
        for (is_kept, scale, _, is_hidden, of_head), members in groupby(sorted(trained, key=traits), key=traits)
    ]


def in_words(groups: Sequence[Mapping[str, Any]]) -> str:
    """`3 groups: 7,680 parameters decay by 0.01, 160 do not; learning rate x0.5 to x1`."""
    rates = sorted({group["lr_scale"] for group in groups})
    decay: dict[float, int] = defaultdict(int)
    for group in groups:
        decay[group["weight_decay"]] += sum(prod(full_shape(parameter)) for parameter in group["params"])
    decaying = [f"{number:,} parameters decay by {value:g}" for value, number in decay.items() if value]
    said = f"{', '.join([*decaying, f'{decay[0.0]:,} do not'])}" if decaying else "nothing decays"
    return f"{len(groups)} group{'s' * (len(groups) > 1)}: {said}; learning rate x" + " to x".join(
        f"{rate:.3g}" for rate in dict.fromkeys((rates[0], rates[-1]))
    )


def _without_decay(model: Any, recipe: Recipe) -> set[str]:
    words = recipe.optimizer.no_decay
    return selection.select(model, words, recipe.origin("optimizer.no_decay")) if words else set()


def _head(model: Any, recipe: Recipe) -> set[str]:
    """Names of the head's trained weights. RecipeError where a penalty on them is asked for and there are none."""
    if not recipe.regularization.group_lasso:
        return set()
    where = recipe.origin("regularization.group_lasso")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not (found := selection.select(model, ["head"], where) & trained):
        raise RecipeError("regularization.group_lasso: the head is not trained", where=where, fix="take it out")
    return found


def _factors(model: Any, recipe: Recipe) -> Iterator[tuple[nn.Parameter, float]]:
    """(parameter, factor on the learning rate): by how far it is from the output, times the last multiplier that names it."""
    options, named = recipe.optimizer, dict(model.named_parameters())
    by_depth, multiplied = {}, {}
    if options.layer_lr_decay is not None:
        for depth, names in enumerate(reversed(selection.groups(model))):
            by_depth |= dict.fromkeys(names, options.layer_lr_decay**depth)
    for words, factor in options.lr_multipliers.items():
        where = recipe.origin("optimizer.lr_multipliers")
        multiplied |= dict.fromkeys(selection.select(model, [words], where), factor)
    for name in {**by_depth, **multiplied}:
        yield named[name], by_depth.get(name, 1.0) * multiplied.get(name, 1.0)


def _ids(model: Any, names: Collection[str]) -> set[int]:
    return {id(parameter) for name, parameter in model.named_parameters() if name in names}


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
