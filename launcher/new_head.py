"""Which modules of a model are new: output layers that no pretrained weights were found for. An adapter trains them in full."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from launcher.errors import EnvironmentProblem

BY_LABEL = {"class_embed", "enc_score_head", "denoising_class_embed"}  # of RT-DETR, within its body
LISTS = (nn.ModuleList, nn.ModuleDict)  # which are called by nobody, so that no adapter can wrap them


def outside_body(model: Any) -> tuple[str, ...]:
    """The modules beside the body of a Hugging Face model that have parameters; none where it does not name its body."""
    body = model.base_model
    if body is model:
        return ()
    found: list[str] = []
    for name, child in model.named_children():
        if child is not body and any(True for _ in child.parameters()):
            found += [f"{name}.{key}" for key, _ in child.named_children()] if isinstance(child, LISTS) else [name]
    return tuple(found)


def owners(model: nn.Module, parameters: Collection[str]) -> tuple[str, ...]:
    """The largest modules all of whose parameters are among those named; for a parameter that has none, its own module."""
    found: list[str] = []
    for name, module in model.named_modules():
        own = [f"{name}.{key}" if name else key for key, _ in module.named_parameters()]
        inside = any(name == module_name or name.startswith(f"{module_name}.") for module_name in found)
        if name and own and not inside and not isinstance(module, LISTS) and set(own) <= set(parameters):
            found.append(name)
    left = {key for key in parameters if not any(key.startswith(f"{name}.") for name in found)}
    return tuple(found + sorted({key.rpartition(".")[0] for key in left} - {""}))


def of(model: Any, missing: Collection[str]) -> tuple[str, ...]:
    """The head, and what else has no pretrained weights."""
    head = outside_body(model)
    parameters = {name for name, _ in model.named_parameters()}
    others = [name for name in owners(model, parameters & set(missing)) if not _is_inside(name, head)]
    return (*head, *others)


@contextmanager
def drawn_alike() -> Iterator[None]:
    """Around the reading of a model: its new weights are drawn from where the generator stands now.

    While it is put together, a model may draw what its files then replace; under ZeRO-3 it does, and elsewhere it has no storage.
    """
    transformers_own: Any = PreTrainedModel
    draw, state = transformers_own._initialize_missing_keys, torch.get_rng_state()

    def from_here(model: Any, *options: Any, **more: Any) -> None:
        torch.set_rng_state(state)
        draw(model, *options, **more)

    transformers_own._initialize_missing_keys = from_here
    try:
        yield
    finally:
        transformers_own._initialize_missing_keys = draw


def refuse_mismatched(model: Any, mismatched: Collection[Any], where: str) -> None:
    """A head of another size is new; a body of another size is another model."""
    head = outside_body(model)
    names = [name if isinstance(name, str) else name[0] for name in mismatched]
    if wrong := [name for name in names if not _is_inside(name, head) and not BY_LABEL & set(name.split("."))]:
        raise EnvironmentProblem(
            f"weights of another shape than the configuration says: {', '.join(wrong[:3])}", where=where
        )


def _is_inside(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
