"""The base model and its tokenizer, from a folder, the hub, or a configuration; and what its shapes alone can tell."""

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from transformers.initialization import no_init_weights
from transformers.integrations import is_deepspeed_zero3_enabled

from launcher import activations, heads, inventory, losses, quantize, quantized_layers, shipped, token_rows
from launcher.activation_memory import Decoder
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.model_facts import LossChoice, ModelFacts
from launcher.recipe import Recipe
from launcher.weight_storage import Quantized

transformers.utils.logging.disable_progress_bar()
# bitsandbytes, which PEFT imports where it is installed, asks for an optional CPU kernel of the hub at every start.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# PEFT still asks transformers for names that it is about to rename; a user can do nothing about that.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer with what the recipe adds to it. Only fast tokenizers know where in the text a token stands."""
    name = recipe.tokenizer.name_or_path or recipe.model.name_or_path
    if name is None:
        raise RecipeError("a model from model.init has no tokenizer of its own", fix="set tokenizer.name_or_path")
    options = (
        {"revision": recipe.model.revision} if recipe.tokenizer.name_or_path is None and recipe.model.revision else {}
    )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, trust_remote_code=recipe.model.trust_remote_code, **options
        )
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"the tokenizer cannot be loaded: {_first_line(error)}", where=str(name)) from error
    if not tokenizer.is_fast:
        raise EnvironmentProblem(
            "this model has only a slow tokenizer", where=str(name), fix="convert it to tokenizer.json"
        )
    if recipe.tokenizer.add_tokens:
        tokenizer.add_tokens(list(recipe.tokenizer.add_tokens))
    if recipe.tokenizer.pad_token:
        tokenizer.pad_token = recipe.tokenizer.pad_token
    if recipe.tokenizer.chat_template:
        tokenizer.chat_template = _text_of(recipe.tokenizer.chat_template)
    return tokenizer


def pad_token_id(tokenizer: Any) -> int:
    """What fills a batch. Padding is masked and never a target, so any token does where the tokenizer names none."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def load_config(recipe: Recipe) -> tuple[Any, str]:
    """The model's configuration and where it came from; published shapes of known models stand in where the hub is out of reach."""
    section = recipe.model
    if section.init is not None:
        return _config_from(section.init), "model.init"
    name = str(section.name_or_path)
    try:
        options = {"revision": section.revision} if section.revision else {}
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=section.trust_remote_code, **options)
        return config, name
    except (OSError, ValueError) as error:
        known = shipped.folder("recipes") / "assets" / "configs" / f"{name.replace('/', '--')}.json"
        if known.is_file():
            return _config_from(str(known)), f"the shape that ships with the launcher ({known.name})"
        raise EnvironmentProblem(
            f"the model's configuration cannot be loaded: {_first_line(error)}", where=name
        ) from error


def load(
    recipe: Recipe,
    task: ModuleType,
    dtype: str,
    tokenizer: Any,
    device: str = "cpu",
    compute_dtype: str | None = None,
) -> Any:
    """The base model in train mode, with an embedding row for every token of the tokenizer.

    On the CPU; under method qlora on `device`, where its layers are quantised while they are read, to compute in `compute_dtype`.
    """
    section = recipe.model
    auto_class = getattr(transformers, task.AUTO_CLASS)
    if section.init is not None:
        # Under ZeRO-3, transformers leaves out what each layer draws by itself; so do we elsewhere, for one seed to mean one model.
        with no_init_weights():
            model = auto_class.from_config(
                _config_from(section.init),
                dtype=DTYPES[dtype],
                attn_implementation=section.attn_implementation,
                trust_remote_code=section.trust_remote_code,
            )
        if not is_deepspeed_zero3_enabled():
            model.init_weights()
    elif recipe.method == "qlora":
        with torch.device("meta"):
            shape = auto_class.from_config(load_config(recipe)[0], trust_remote_code=section.trust_remote_code)
        layout = quantized_layers.layout(recipe, shape)
        options = quantize.load_options(layout, compute_dtype, device)
        model = _pretrained(auto_class, section, dtype, options)
        quantize.settle(model, layout, compute_dtype)
    else:
        model = _pretrained(auto_class, section, dtype)
    token_rows.fit(model, recipe, tokenizer)
    return model.train()


def facts(recipe: Recipe, task: ModuleType, adapter: ModuleType, tokenizer: Any = None) -> ModelFacts:
    """Count parameters and resolve the head on a model without storage; without a tokenizer its vocabulary stays as it is."""
    config, source = load_config(recipe)
    with torch.device("meta"):
        model = getattr(transformers, task.AUTO_CLASS).from_config(
            config, trust_remote_code=recipe.model.trust_remote_code
        )
        token_rows.fit(model, recipe, tokenizer)
        layout = _layout(recipe, model)
        stored = inventory.stored(model, layout)
        model = adapter.apply(model, recipe.adapter)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head, reason = heads.resolve(base)
    asked = recipe.loss.implementation
    if asked == "fused" and head is None:
        raise RecipeError(f"loss.implementation fused cannot be used: {reason}", fix="use auto or torch")
    fused = head is not None and asked != "torch"
    return ModelFacts(
        architecture=type(base).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        max_positions=getattr(config.get_text_config(), "max_position_embeddings", None),
        has_dropout=any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules()),
        loss="fused" if fused else "torch",
        loss_reason="loss.implementation" if asked != "auto" else f"auto: {reason}",
        source=source,
        loss_way=partial(_loss_way, head, recipe.method) if fused else None,
        quantized=layout and Quantized(layout.scheme.quant_type, str(layout), layout.remainder),
        num_layers=getattr(config.get_text_config(), "num_hidden_layers", None),
        hidden_size=getattr(config.get_text_config(), "hidden_size", None),
        vocabulary=getattr(config.get_text_config(), "vocab_size", None),
        decoder=Decoder.of(config),
        weights=inventory.of(model, recipe, stored),
        module_classes=frozenset(type(module).__name__ for module in model.modules()),
        attention=recipe.model.attn_implementation or base.config._attn_implementation,
        recomputable_layers=len(activations.layers(base)) if base.supports_gradient_checkpointing else 0,
    )


def _layout(recipe: Recipe, model: Any) -> quantized_layers.Layout | None:
    if recipe.method == "qlora":
        return quantized_layers.layout(recipe, model)
    quantized_layers.refuse_quantized(model.config, recipe.method)
    return None


def _loss_way(
    head: heads.Head, method: str, num_rows: int, precision: str, model_dtype: str, device: str
) -> LossChoice:
    """How the fused loss goes about it. What an adapter trains is fp32, and so is a head without autocast beside it."""
    kept = torch.float32 if head.weight.requires_grad and method != "full" else DTYPES[model_dtype]
    computed = DTYPES[precision] if precision in ("bf16", "fp16") else kept
    return losses.way(head, num_rows, computed, kept, device)


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


def _pretrained(auto_class: Any, section: Any, dtype: str, options: Mapping[str, Any] | None = None) -> Any:
    options = {**(options or {}), **({"revision": section.revision} if section.revision else {})}
    try:
        return auto_class.from_pretrained(
            section.name_or_path,
            dtype=DTYPES[dtype],
            attn_implementation=section.attn_implementation,
            trust_remote_code=section.trust_remote_code,
            **options,
        )
    except (OSError, ValueError, ImportError) as error:
        raise EnvironmentProblem(
            f"the model cannot be loaded: {_first_line(error)}", where=str(section.name_or_path)
        ) from error


def _config_from(init: Any) -> Any:
    """A configuration from a mapping with `model_type`, or from a .json file that holds one."""
    values = dict(init) if not isinstance(init, str) else json.loads(Path(init).read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise RecipeError("model.init has no model_type", fix="name the architecture, for example model_type: llama")
    try:
        return transformers.AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model.init is no valid {model_type} configuration: {_first_line(error)}") from error


def _text_of(template: str) -> str:
    path = Path(template)
    is_file = "{" not in template and path.is_file()
    return path.read_text(encoding="utf-8") if is_file else template


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
