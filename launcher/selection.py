"""Parameters by what they are: `head`, `embeddings`, `layers[:6]`, or a pattern of their names; and what is trained of a model.

head            what turns states into outputs, and what else has no pretrained weights
embeddings      what makes states of the input: tables of tokens and positions, patches, their norms
layers[a:b]     the layers in the model's order (an encoder's before a decoder's), counted as Python counts, but never beyond
                what there is; `layers` is all
bert.pooler.*   any other word is a shell pattern on the names of parameters
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from typing import Any

from torch import nn

from launcher import activations, new_head
from launcher.errors import RecipeError
from launcher.recipe import Recipe
from launcher.schema.values import LAYERS
from launcher.suggest import did_you_mean

WORDS = ("head", "embeddings", "layers")


def settle(model: Any, recipe: Recipe) -> None:
    """Take out of the training what `trainable` and `freeze` leave out; what the method does not train stays untrained.

    Raises RecipeError for words that select nothing, and where nothing is left to train.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = set(trained)
    if recipe.trainable is not None:
        kept &= select(model, recipe.trainable, recipe.origin("trainable"))
    if recipe.freeze:
        kept -= select(model, recipe.freeze, recipe.origin("freeze"))
    if not kept:
        key = "freeze" if recipe.trainable is None else "trainable"
        raise RecipeError(f"{key}: nothing that method: {recipe.method} trains is left", where=recipe.origin(key))
    for name, parameter in model.named_parameters():
        if name in trained - kept:
            parameter.requires_grad_(False)


def select(model: Any, selectors: Iterable[str], where: str) -> set[str]:
    """Names of the parameters of a model, with its adapter, that one of the selectors means."""
    found: set[str] = set()
    for selector in selectors:
        one = _selected(model, selector)
        if not one or _reaches_beyond(model, selector):
            wrong = "reaches beyond the layers" if one else "selects no parameter"
            raise RecipeError(f"{selector} {wrong} of this model", where=where, fix=_known(model, selector))
        found |= one
    return found


def groups(model: Any) -> list[set[str]]:
    """Names of all parameters, in disjoint groups from the input to the output: embeddings, each layer, all else with the head."""
    found: list[set[str]] = []
    for part in ("embeddings", *(f"layers[{number}]" for number in range(len(_layers(model))))):
        found.append(_selected(model, part) - set().union(*found))
    return [*found, {name for name, _ in model.named_parameters()} - set().union(*found)]


def _selected(model: Any, selector: str) -> set[str]:
    if selector == "head":
        return _names(model, _head(_base(model)))
    if selector == "embeddings":
        return _names(model, _embeddings(_base(model)))
    if selector == "layers":
        return _names(model, _layers(model))
    if slice_of := LAYERS.fullmatch(selector):
        first, colon, last = slice_of.groups()
        layers = _layers(model)
        if colon is None:
            number = int(first or 0)
            return _names(model, layers[number : number + 1 or None])
        return _names(model, layers[int(first) if first else None : int(last) if last else None])
    return {name for name, _ in model.named_parameters() if fnmatch(_plain(name), selector)}


def _reaches_beyond(model: Any, selector: str) -> bool:
    """Whether a slice ends where there are no layers, which most likely was meant for a deeper model."""
    slice_of, count = LAYERS.fullmatch(selector), len(_layers(model))
    return slice_of is not None and any(abs(int(bound)) > count for bound in slice_of.group(1, 3) if bound)


def _names(model: Any, modules: Iterable[nn.Module]) -> set[str]:
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _layers(model: Any) -> list[nn.Module]:
    return activations.layers(_base(model).base_model)


def _head(base: Any) -> Iterator[nn.Module]:
    yield from map(
        base.get_submodule, dict.fromkeys((*new_head.outside_body(base), *getattr(base, "head_modules", ())))
    )
    if (output := base.get_output_embeddings()) is not None:
        yield output


def _embeddings(base: Any) -> Iterator[nn.Module]:
    """The parts of the body that hold the input embeddings, or another table that belongs to no layer."""
    body = base.base_model
    inside = {id(module) for layer in activations.layers(body) for module in layer.modules()}
    tables = [module for module in body.modules() if isinstance(module, nn.Embedding) and id(module) not in inside]
    with suppress(NotImplementedError):  # of a model that none are known of, such as ResNet
        tables.append(body.get_input_embeddings())
    wanted = {id(table) for table in tables}
    for parent in body.modules():
        for child in parent.children():
            if wanted & {id(module) for module in child.modules()} and not inside & {id(m) for m in child.modules()}:
                yield child


def _plain(name: str) -> str:
    """The name as the base model has it, where PEFT has put its own before it."""
    return name.removeprefix("base_model.model.")


def _known(model: Any, selector: str) -> str:
    names = [_plain(name) for name, _ in model.named_parameters()]
    count = len(_layers(model))
    layers = f"layers[0] to layers[{count - 1}]" if count else "no layers that are known"
    hint = "" if LAYERS.fullmatch(selector) else did_you_mean(selector, [*WORDS, *names]).removeprefix("; ")
    return f"{hint or 'use'} head, embeddings, {layers}, or a pattern such as {_pattern(names)}"


def _pattern(names: list[str]) -> str:
    return f"{names[-1].rpartition('.')[0]}.*"
