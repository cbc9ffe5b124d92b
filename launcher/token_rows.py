"""Rows of the vocabulary that are new or trained on their own, in the embedding and in the output head.

A row that the tokenizer has and the base model on disk has not is zero in the base here, so that whoever resizes the base finds
the same; its first value, the mean of the known rows, goes to what is trained: PEFT's trainable tokens, a trained copy
(`modules_to_save`), or under method full the weight itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import RecipeError
from launcher.shards import full_shape, rewritten

ADAPTER = "default"  # PEFT's name for the only adapter
KEYS = "tokenizer.add_tokens, adapter.trainable_tokens and embeddings in adapter.modules_to_save"


@dataclass(frozen=True)
class TokenRows:
    """`known`: rows of the base model on disk; `trained`: numbers of the tokens whose rows are trained."""

    known: int
    trained: tuple[int, ...] = ()


def number(model: Any) -> int:
    """Rows of the embedding; 0 for a model that has none."""
    embedding, _ = _matrices(model)
    return 0 if embedding is None else int(full_shape(embedding.weight)[0])


def fit(model: Any, recipe: Any, tokenizer: Any) -> None:
    """A row for every token of the tokenizer. `of(model)` then tells an adapter which rows it must train."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    embedding, _ = _matrices(model)
    if embedding is None or tokenizer is None:
        return
    known = full_shape(embedding.weight)[0]
    new = range(known, len(tokenizer))
    if new:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tensors = list(_tensors(*_matrices(model)))
        with rewritten(tensors):
            for tensor in tensors:
                tensor.data[known:] = _mean(tensor[:known]) if recipe.method == "full" else 0
    wanted = {*recipe.tokenizer.add_tokens, *getattr(recipe.adapter, "trainable_tokens", ())}
    trained = {*new, *(_number(tokenizer, token) for token in wanted)}
    if trained and recipe.method != "full" and "trainable_tokens" not in type(recipe.adapter).model_fields:
        raise RecipeError(
            f"{len(trained)} tokens of the vocabulary must be learned, and method {recipe.method} trains none of its rows",
            fix="use method lora, or leave out tokenizer.add_tokens",
        )
    if trained and recipe.method != "full" and is_deepspeed_zero3_enabled():
        raise RecipeError("PEFT reads single rows of a matrix past ZeRO-3's sharding of it", fix="use zero2")
    if trained and any(side.weight is not model.get_input_embeddings().weight for side in _sides(model)):
        raise RecipeError(
            f"{type(model).__name__} has an embedding for sources and another one for targets: no new tokens can be learned",
            fix=f"leave out {KEYS}, and take the tokenizer of the model",
        )
    model.token_rows = TokenRows(known, tuple(sorted(trained)))


def of(model: Any) -> TokenRows:
    """What `fit` found out; a model that it has not seen keeps its rows, if it has any."""
    return getattr(model, "token_rows", None) or TokenRows(number(model))


def peft_options(model: Any, modules_to_save: tuple[str, ...]) -> dict[str, Any]:
    """The part of PEFT's configuration that is about the vocabulary: every row that must be trained is, in every matrix."""
    embedding, head = _matrices(model)
    modules = dict(model.named_modules())
    saved = [n for n in modules if any(n == ending or n.endswith(f".{ending}") for ending in modules_to_save)]
    matrices = [name for name, module in modules.items() if module is embedding or module is head]
    one_by_one = [name for name in matrices if name not in saved]
    if _tied(embedding, head):
        # Both are copied or none; of single rows the head takes those of the embedding by itself.
        copied = len(one_by_one) < len(matrices)
        saved += one_by_one if copied else []
        one_by_one = [] if copied else [name for name in matrices if modules[name] is embedding]
    trained = list(of(model).trained)
    return {
        "modules_to_save": saved or None,  # by full names: PEFT would take `norm` for the end of `input_layernorm`
        "trainable_token_indices": {name: trained for name in one_by_one} if trained and one_by_one else None,
    }


def begin(wrapped: Any, rows: TokenRows, tied: bool) -> None:
    """After PEFT has wrapped the model: what is trained is fp32, tied copies are one, new rows have their first value."""
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    keep_copies_in_fp32(wrapped)
    embedding, head = _matrices(wrapped.get_base_model())
    _refuse_overlooked(wrapped.get_base_model())
    if tied and isinstance(embedding, ModulesToSaveWrapper):
        head.modules_to_save[ADAPTER].weight = embedding.modules_to_save[ADAPTER].weight
    for wrapper in (m for m in (embedding, head) if isinstance(m, TrainableTokensWrapper)):
        _refuse_another_formula(wrapper)
    new = [position for position, number in enumerate(rows.trained) if number >= rows.known]
    for module in (embedding, head) if new else ():
        if isinstance(module, TrainableTokensWrapper):
            delta = module.token_adapter.trainable_tokens_delta[ADAPTER]
            delta.data[new] = _mean(module.original_module.weight[: rows.known]).to(delta)
        elif isinstance(module, ModulesToSaveWrapper):
            for tensor in _tensors(module.modules_to_save[ADAPTER]):
                tensor.data[rows.known :] = _mean(tensor[: rows.known])


def keep_copies_in_fp32(wrapped: Any) -> None:
    """Modules that PEFT trains in full, beside a model that may be in 16 bits."""
    for module in _copies(wrapped):
        _keep_in_fp32(module.modules_to_save[ADAPTER], module.original_module)


def round_copies(wrapped: Any) -> None:
    """Trained copies in the type of the base, as PEFT keeps them; a tied pair stays one."""
    for module in _copies(wrapped):
        copy = module.modules_to_save[ADAPTER]
        for name, parameter in module.original_module.named_parameters():
            trained = copy.get_parameter(name)
            trained.data = trained.data.to(parameter.dtype)


def untie_where_lora_stands(wrapped: Any) -> None:
    """LoRA on one of two tied matrices makes them two, which merging in place would not: give the head a weight of its own."""
    from peft.tuners.lora import LoraLayer

    base = wrapped.get_base_model()
    embedding, head = _matrices(base)
    if not (isinstance(embedding, LoraLayer) or isinstance(head, LoraLayer)):
        return
    below = [module.get_base_layer() if isinstance(module, LoraLayer) else module for module in (embedding, head)]
    if _tied(*below):
        below[1].weight = nn.Parameter(below[1].weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def tied(model: Any) -> bool:
    """Whether embedding and head are one matrix."""
    return _tied(*_matrices(model))


def _tied(embedding: Any, head: Any) -> bool:
    return embedding is not None and head is not None and head.weight is embedding.weight


def _matrices(model: Any) -> tuple[Any, Any]:
    """Embedding and head; None for what a model has not, as one of images."""
    found = []
    for look in ("get_input_embeddings", "get_output_embeddings"):
        try:
            module = getattr(model, look)()
        except (AttributeError, NotImplementedError):
            module = None
        found.append(
            module if torch.is_tensor(getattr(module, "weight", None)) and len(full_shape(module.weight)) == 2 else None
        )
    return found[0], found[1]


def _sides(model: Any) -> list[Any]:
    """Where the encoder and the decoder of a model that has both look tokens up. A detector has both, and no tokens."""
    if not getattr(model.config, "is_encoder_decoder", False) or _matrices(model)[0] is None:
        return []
    return [side.get_input_embeddings() for side in (model.get_encoder(), model.get_decoder())]


def _refuse_overlooked(model: Any) -> None:
    """PEFT wraps the modules that it knows to share a trained matrix; one that it overlooks would never see what is learned."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    trained = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    if any(isinstance(module.original_module, nn.Embedding) for module in trained) and any(
        not isinstance(side, AuxiliaryTrainingWrapper) for side in _sides(model)
    ):
        raise RecipeError(
            f"PEFT trains a matrix of {type(model).__name__} that its encoder and decoder do not look at",
            fix=f"leave out {KEYS}",
        )


def _copies(wrapped: Any) -> list[Any]:
    from peft.utils.other import ModulesToSaveWrapper

    return [module for module in wrapped.modules() if isinstance(module, ModulesToSaveWrapper)]


def _tensors(*modules: Any) -> Iterator[Tensor]:
    for module in modules:
        yield from (t for t in (getattr(module, "weight", None), getattr(module, "bias", None)) if t is not None)


def _mean(rows: Tensor) -> Tensor:
    return rows.detach().mean(0, dtype=torch.float32).to(rows.dtype)


def _number(tokenizer: Any, token: str) -> int:
    number = tokenizer.get_vocab().get(token)
    if number is None:
        raise RecipeError(
            f"adapter.trainable_tokens: {token!r} is no token of this tokenizer",
            fix="add it under tokenizer.add_tokens",
        )
    return int(number)


def _keep_in_fp32(copy: nn.Module, original: nn.Module) -> None:
    """Steps smaller than the spacing of bf16 would be lost. What goes in and comes out keeps the types it would have had."""
    dtype = next((parameter.dtype for parameter in original.parameters()), torch.float32)
    if dtype == torch.float32:
        return
    copy.float()

    def into(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        own = next(module.parameters()).dtype  # an export may change it
        return _in_type(args, own), _in_type(named, own)

    copy.register_forward_pre_hook(into, with_kwargs=True)
    copy.register_forward_hook(lambda module, args, output: _in_type(output, dtype))


def _in_type(value: Any, dtype: torch.dtype) -> Any:
    """A tensor of numbers with a point in `dtype`, inside lists and mappings too: some heads take the states of several layers."""
    if torch.is_tensor(value):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(_in_type(item, dtype) for item in value)
    return {key: _in_type(item, dtype) for key, item in value.items()} if type(value) is dict else value


def _refuse_another_formula(wrapper: Any) -> None:
    """PEFT replaces the forward pass of what it wraps by a lookup or a product; a layer that does more would lose that."""
    original = wrapper.original_module
    same = isinstance(original, nn.Embedding | nn.Linear)
    if same and not original.weight.is_meta:
        probe = torch.arange(2) if isinstance(original, nn.Embedding) else torch.ones(1, original.in_features)
        probe = probe.to(original.weight.device, original.weight.dtype if probe.is_floating_point() else None)
        with torch.no_grad():
            same = torch.equal(wrapper(probe), original(probe))
    if not same:
        raise RecipeError(
            f"single rows of a {type(original).__name__} cannot be trained: PEFT's formula for it is another one",
            fix="list embedding and head under adapter.modules_to_save and leave them out of adapter.target_modules",
        )
