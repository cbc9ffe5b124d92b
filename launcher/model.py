"""The base model, from a folder, the hub, or a configuration; and what its shapes alone can tell."""

import inspect
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import transformers
from transformers.initialization import no_init_weights
from transformers.integrations import is_deepspeed_zero3_enabled

from launcher import (
    activations,
    batch_norm,
    chance,
    inventory,
    known_models,
    model_init,
    new_head,
    param_groups,
    quantize,
    quantized_layers,
    selection,
    shape_trial,
    token_rows,
)
from launcher.activation_memory import Decoder
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.model_facts import ModelFacts
from launcher.processor import tokenizer_of
from launcher.recipe import Recipe
from launcher.weight_storage import Quantized

transformers.utils.logging.disable_progress_bar()
# bitsandbytes, which PEFT imports where it is installed, asks for an optional CPU kernel of the hub at every start.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# PEFT still asks transformers for names that it is about to rename; a user can do nothing about that.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_config(recipe: Recipe) -> tuple[Any, str]:
    """The model's configuration and where it came from; published shapes of known models stand in where the hub is out of reach."""
    section = recipe.model
    if section.init is not None:
        return config_from(section.init), "model.init"
    name = str(section.name_or_path)
    try:
        options = {"revision": section.revision} if section.revision else {}
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=section.trust_remote_code, **options)
        return config, name
    except (OSError, ValueError) as error:
        if (known := known_models.shape(name)) is not None:
            return config_from(known), f"the shape that ships with the launcher ({name})"
        raise EnvironmentProblem(
            f"the model's configuration cannot be loaded: {_first_line(error)}", where=name
        ) from error


def load(
    recipe: Recipe,
    task: ModuleType,
    dtype: str,
    processor: Any,
    device: str = "cpu",
    compute_dtype: str | None = None,
    head: Mapping[str, Any] | None = None,
) -> Any:
    """The base model in train mode, with an embedding row for every token of the tokenizer. `head`: see `Context`.

    On the CPU; under method qlora on `device`, where its layers are quantised while they are read, to compute in `compute_dtype`.
    """
    section, own = recipe.model, load_config(recipe)[0]
    head = {**_known(head or {}, own), **chance.overrides(own, recipe)}
    auto_class = getattr(transformers, task.TRAITS.auto_class)
    missing: Collection[str] = ()
    if section.init is not None:
        options = {"attn_implementation": section.attn_implementation, "trust_remote_code": section.trust_remote_code}
        model = from_random_weights(auto_class, with_head(config_from(section.init), head), dtype, **options)
    elif recipe.method == "qlora":
        with torch.device("meta"):
            config = with_head(load_config(recipe)[0], head)
            shape = auto_class.from_config(config, trust_remote_code=section.trust_remote_code)
        _name_head(shape, task, _missing_on_disk(recipe, task, head))
        layout = quantized_layers.layout(recipe, shape)
        options = quantize.load_options(layout, compute_dtype, device)
        model, missing = _pretrained(task, section, dtype, {**options, **head})
        quantize.settle(model, layout, compute_dtype)
    else:
        model, missing = _pretrained(task, section, dtype, head)
    token_rows.fit(model, recipe, tokenizer_of(processor))
    _name_head(model, task, missing)
    return model.train()


def from_random_weights(auto_class: Any, config: Any, dtype: str, **options: Any) -> Any:
    """A new model. Under ZeRO-3, transformers leaves out what each layer draws by itself; so do we elsewhere, for one seed to mean
    one model. What `init_weights` cannot reach, weights that are computed from others (weight norm), is as the layer draws it."""
    with no_init_weights():
        model = auto_class.from_config(config, dtype=DTYPES[dtype], **options)
    if is_deepspeed_zero3_enabled():
        return model
    model.init_weights()
    for module in model.modules():
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            fresh = torch.empty_like(module.weight)
            torch.nn.init.kaiming_uniform_(fresh, a=5**0.5)
            module.weight = fresh
    return model


def with_head(config: Any, head: Mapping[str, Any]) -> Any:
    """A configuration with values of `Context.head`."""
    for name, value in head.items():
        setattr(config, name, value)
    return config


def _known(head: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Those values of `Context.head` that a configuration of this kind has."""
    return {name: value for name, value in head.items() if hasattr(config, name)}


def facts(
    recipe: Recipe, task: ModuleType, adapter: ModuleType, processor: Any = None, head: Mapping[str, Any] | None = None
) -> ModelFacts:
    """Count parameters and plan the loss on a model without storage; without a tokenizer its vocabulary stays as it is."""
    config, source = load_config(recipe)
    head = {**_known(head or {}, config), **chance.overrides(config, recipe)}
    with torch.device("meta"):
        try:
            model = getattr(transformers, task.TRAITS.auto_class).from_config(
                with_head(config, head), trust_remote_code=recipe.model.trust_remote_code
            )
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise RecipeError(
                f"a model of the kind {config.model_type} cannot do {recipe.task}",
                where=source,
                fix=f"name one that {task.TRAITS.auto_class} of transformers knows",
            ) from None
        give_own_head(model)
        token_rows.fit(model, recipe, tokenizer_of(processor))
        _name_head(model, task, _missing_on_disk(recipe, task, head))
        layout = _layout(recipe, model)
        stored = inventory.stored(model, layout)
        model = adapter.apply(model, recipe.adapter)
        selection.settle(model, recipe)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    groups = param_groups.of(torch.nn.ModuleDict({"model": model}), recipe)
    sees = processor is not None and task.TRAITS.processor == "image_processor"
    unused = shape_trial.unused(base, processor, recipe, task.TRAITS) if sees else None
    loss = task.objective.plan_loss(base, recipe.loss, recipe.method)
    text_config = config.get_text_config()
    return ModelFacts(
        architecture=type(base).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        max_positions=positions(base),
        has_dropout=chance.is_in(model),
        loss=loss.name,
        loss_reason=loss.reason,
        source=source,
        loss_way=loss.way,
        loss_passes=loss.passes,
        loss_mixes_rows=loss.mixes_rows,
        quantized=layout and Quantized(layout.scheme.quant_type, str(layout), layout.remainder),
        num_layers=getattr(text_config, "num_hidden_layers", None),
        hidden_size=getattr(text_config, "hidden_size", None),
        vocabulary=None if task.TRAITS.has_new_head else getattr(text_config, "vocab_size", None),
        decoder=Decoder.of(config),
        weights=inventory.of(model, groups, stored),
        groups=param_groups.in_words(groups),
        module_classes=frozenset(type(module).__name__ for module in model.modules()),
        attention=recipe.model.attn_implementation or base.config._attn_implementation,
        recomputable_layers=len(activations.layers(base)) if base.supports_gradient_checkpointing else 0,
        head=base.head_modules,
        unused=unused,
        has_batch_norm=bool(batch_norm.trained(model)),
        layers=len(activations.layers(base)),
    )


def give_own_head(model: Any) -> None:
    """Of T5 1.1 and mT5: a model from a configuration has its head tied, one from their files has another, which unties it."""
    config = model.config
    if config.model_type in ("mt5", "umt5") or config.model_type == "t5" and not config.scale_decoder_outputs:
        head = model.get_output_embeddings()
        if head is not None:
            head.weight = torch.nn.Parameter(torch.empty_like(head.weight))


def positions(model: Any) -> int | None:
    """The longest sequence; some tables of positions begin behind the number of the padding token."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions if positions is None or padding is None else positions - padding - 1


def _name_head(model: Any, task: ModuleType, missing: Collection[str]) -> None:
    """Leave in the model what the adapters look for: the names of modules that are new, and PEFT's name for the task."""
    model.peft_task_type = task.TRAITS.peft_task_type
    model.head_modules = new_head.of(model, missing) if task.TRAITS.has_new_head else ()


def _missing_on_disk(recipe: Recipe, task: ModuleType, head: Mapping[str, Any]) -> Collection[str]:
    """Parameters that the files of a pretrained model lack; none where they are not on this disk."""
    if recipe.model.name_or_path is None or not task.TRAITS.has_new_head or recipe.method == "full":
        return ()
    try:
        return _pretrained(task, recipe.model, "fp32", {**head, "device_map": "meta", "local_files_only": True})[1]
    except EnvironmentProblem:
        return ()


def _layout(recipe: Recipe, model: Any) -> quantized_layers.Layout | None:
    if recipe.method == "qlora":
        return quantized_layers.layout(recipe, model)
    quantized_layers.refuse_quantized(model.config, recipe.method)
    return None


def check_packing(model: Any, device: torch.device) -> None:
    """Prove on this model that packed examples do not see each other.

    The states of a second example must have a gradient of exactly zero with respect to the first one's embeddings. Comparing
    states would not do: those of a mixture of experts change in the last bits with whoever shares an expert.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(base).__name__
    if "position_ids" not in inspect.signature(base.base_model.forward).parameters:
        raise RecipeError(
            f"data.packing: {name} takes no position_ids, so packed examples cannot be kept apart",
            fix="set data.packing=false",
        )
    ids = torch.arange(2, 14, device=device).remainder(base.config.get_text_config().vocab_size).unsqueeze(0)
    positions = torch.tensor([[*range(5), *range(7)]], device=device)
    was_training = base.training
    base.eval()
    with torch.enable_grad(), _embedded(base) as embedded:
        states = base.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[:, 5:]
        # Not a plain sum: after a layer norm it is the same whatever the input.
        weights = torch.arange(states.numel(), device=device).cos().view_as(states).to(states.dtype)
        (gradient,) = torch.autograd.grad((states * weights).sum(), embedded[0])
    base.train(was_training)
    if gradient[:, :5].any() or not gradient[:, 5:].any():
        raise RecipeError(
            f"data.packing: {name} with {base.config._attn_implementation} attention lets packed examples see each other",
            fix="set data.packing=false, or another model.attn_implementation",
        )


@contextmanager
def _embedded(base: Any) -> Iterator[list[torch.Tensor]]:
    """Collects the embeddings of what goes through the model, as leaves to take a gradient of."""
    leaves: list[torch.Tensor] = []

    def cut(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # a model may write into it

    handle = base.get_input_embeddings().register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _pretrained(
    task: ModuleType, section: Any, dtype: str, options: Mapping[str, Any] | None = None
) -> tuple[Any, Collection[str]]:
    """The model, and the names of parameters that its files lack. A head of another size counts as lacking."""
    options = {**(options or {}), **({"revision": section.revision} if section.revision else {})}
    has_new_head, verbosity = task.TRAITS.has_new_head, transformers.utils.logging.get_verbosity()
    try:
        if has_new_head:  # it is said in our own words
            transformers.utils.logging.set_verbosity_error()
        with new_head.drawn_alike():
            model, found = getattr(transformers, task.TRAITS.auto_class).from_pretrained(
                section.name_or_path,
                dtype=DTYPES[dtype],
                attn_implementation=section.attn_implementation,
                trust_remote_code=section.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=has_new_head,
                **options,
            )
    except (OSError, ValueError, ImportError) as error:
        raise EnvironmentProblem(
            f"the model cannot be loaded: {_first_line(error)}", where=str(section.name_or_path)
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    mismatched = found["mismatched_keys"]
    new_head.refuse_mismatched(model, mismatched, str(section.name_or_path))
    return model, {*found["missing_keys"], *(name if isinstance(name, str) else name[0] for name in mismatched)}


def config_from(init: Any) -> Any:
    """A configuration from a mapping with `model_type`, or from a .json file that holds one."""
    values = model_init.values(init)
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise RecipeError("model.init has no model_type", fix="name the architecture, for example model_type: llama")
    try:
        config = transformers.AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model.init is no valid {model_type} configuration: {_first_line(error)}") from error
    is_of_texts = hasattr(config, "pad_token_id")  # DETR's decoder begins with no token
    if config.is_encoder_decoder and is_of_texts and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id  # as T5's published configurations have it
    return config


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
