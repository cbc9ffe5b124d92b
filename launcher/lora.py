"""LoRA through PEFT: the options and the wrapping that `lora` and `qlora` share (Hu et al., arXiv:2106.09685).

Heavy imports stand inside functions, because the options are read before torch is.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from launcher.errors import RecipeError
from launcher.section import Expect, FrozenDict, Section, freeze

Ranks = Annotated[dict[str, Annotated[int, Field(ge=1)]], AfterValidator(freeze)]
Alphas = Annotated[dict[str, Annotated[float, Field(gt=0)]], AfterValidator(freeze)]
Start = Annotated[
    Literal[True, "gaussian", "pissa", "olora", "loftq"] | Annotated[str, Field(pattern=r"^pissa_niter_\d+$")],
    Expect("true, or one of gaussian, pissa, pissa_niter_N (N a number), olora, loftq"),
]


class LoraOptions(Section):
    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """The update is scaled by lora_alpha / r (by lora_alpha / sqrt(r) with use_rslora)."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the update."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear` (all but the output head), a list of module name endings, or a regular expression for the full name."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full and saved beside the adapter, a new output head in any case; an embedding stays tied to its head."""
    trainable_tokens: tuple[str, ...] = ()
    """Tokens of the vocabulary whose rows in embedding and head are trained; those of tokenizer.add_tokens always are."""
    init_lora_weights: Start = True
    """Start of A and B: true (Kaiming, zero), gaussian, pissa (2404.02948; pissa_niter_N is fast), olora (2406.01775), loftq."""
    rank_pattern: Ranks = FrozenDict()
    """Other ranks for some modules: name ending or regular expression -> rank; the first that fits counts."""
    alpha_pattern: Alphas = FrozenDict()
    """Other lora_alpha for some modules: name ending or regular expression -> lora_alpha."""
    use_rslora: bool = False
    """Scale by sqrt(r) instead of r (Kalajdzievski, arXiv:2312.03732)."""
    use_dora: bool = False
    """Train magnitude and direction apart (Liu et al., arXiv:2402.09353)."""
    loraplus_lr_ratio: Annotated[float, Field(ge=1)] | None = None
    """LoRA+ (Hayou et al., arXiv:2402.12354): B, and all vectors, learn at this multiple of the learning rate."""
    loraplus_lr_embedding: Annotated[float, Field(gt=0)] = 1e-6
    """LoRA+: peak learning rate of LoRA on an embedding."""

    @model_validator(mode="after")
    def _options_that_fit(self) -> "LoraOptions":
        if self.use_dora and self.init_lora_weights not in (True, "gaussian"):
            raise ValueError(
                f"use_dora starts from true or gaussian, not from init_lora_weights: {self.init_lora_weights}"
            )
        if self.loraplus_lr_ratio is None and self.loraplus_lr_embedding != 1e-6:
            raise ValueError("loraplus_lr_embedding needs loraplus_lr_ratio")
        targets = self.target_modules if isinstance(self.target_modules, str) else ""
        for pattern in (targets, *self.rank_pattern, *self.alpha_pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern} is no regular expression: {error}") from error
        return self


def apply_lora(model: Any, options: LoraOptions, original: Callable[[str], Any] | None = None) -> Any:
    """The model wrapped by PEFT, all but the update and a new head frozen and what is trained in fp32. Names what matches nothing.

    `model.head_modules` are the new modules, `model.peft_task_type` is PEFT's name for the task. `original`, for loftq on a
    quantised base: module name -> its weight (out, in) before quantisation.
    """
    import peft

    from launcher import lora_start, token_rows

    targets = options.target_modules
    _refuse_unmatched(model, () if isinstance(targets, str) else targets, "target_modules")
    _refuse_unmatched(model, options.modules_to_save, "modules_to_save")
    rows, tied = token_rows.of(model), token_rows.tied(model)
    head = getattr(model, "head_modules", ())
    config = peft.LoraConfig(
        task_type=getattr(model, "peft_task_type", "CAUSAL_LM"),
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        init_lora_weights="gaussian" if options.init_lora_weights == "gaussian" else True,
        rank_pattern=dict(options.rank_pattern),
        alpha_pattern=dict(options.alpha_pattern),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.modules()),  # GPT-2 stores W transposed
        exclude_modules=_all_inside(head),
        **token_rows.peft_options(model, (*options.modules_to_save, *head)),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="You have passed exclude_modules"
            )  # for a head that no target names
            wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        said = str(error).rstrip(".")
        fix = "leave out the fused weights of experts, which it wraps: adapter.target_modules=[q_proj, k_proj, v_proj, o_proj]"
        raise RecipeError(
            f"PEFT refuses adapter.target_modules {targets!r}: {said}", fix=fix if "ParamWrapper" in said else ""
        ) from error
    except TypeError as error:
        raise RecipeError(
            f"PEFT refuses LoRA on a matrix whose single rows are trained: {error}",
            fix="leave embedding and head out of adapter.target_modules, or list them under adapter.modules_to_save",
        ) from error
    except NotImplementedError as error:  # PEFT asks whether a head is tied to it
        raise RecipeError(
            f"PEFT wants to know the input embedding, and {type(model).__name__} names none", fix="set method: full"
        ) from error
    for key in ("rank_pattern", "alpha_pattern"):
        _refuse_idle(wrapped.base_model.targeted_module_names, getattr(options, key), f"adapter.{key}")
    token_rows.begin(wrapped, rows, tied)
    lora_start.begin(wrapped, options.init_lora_weights, original)
    return wrapped


def plain_lora(model: Any) -> Any:
    """The same function as PEFT writes and reads it: against the base model as it was, in the base's type. Changes `model`."""
    from launcher import lora_start, token_rows

    lora_start.fold(model)
    token_rows.round_copies(model)
    return model


def merge_lora(model: Any) -> Any:
    """The base model with the update folded into its weights; the adapter is gone afterwards."""
    from launcher import token_rows

    model = plain_lora(model)
    token_rows.untie_where_lora_stands(model)
    return model.merge_and_unload(safe_merge=True)


def lr_scale(name: str, ndim: int, options: LoraOptions, learning_rate: float) -> float:
    """Factor on the learning rate of the parameter `name`: LoRA+'s rules, as in its authors' code."""
    if options.loraplus_lr_ratio is None:
        return 1.0
    if ".lora_embedding_" in name:
        return options.loraplus_lr_embedding / learning_rate
    return options.loraplus_lr_ratio if ".lora_B." in name or ndim == 1 else 1.0


def _all_inside(modules: tuple[str, ...]) -> str | None:
    """A regular expression for the modules and all below them: what is trained in full takes no update besides."""
    return rf"({'|'.join(map(re.escape, modules))})(\..*)?" if modules else None


def _refuse_unmatched(model: Any, names: tuple[str, ...], key: str) -> None:
    modules = [name for name, _ in model.named_modules()]
    unmatched = [n for n in names if not any(m == n or m.endswith("." + n) for m in modules)]
    if unmatched:
        endings = sorted({m.rpartition(".")[2] for m in modules if not m.rpartition(".")[2].isdigit()} - {""})
        raise RecipeError(
            f"adapter.{key}: {', '.join(unmatched)} matches no module", fix=f"the model has {', '.join(endings)}"
        )


def _refuse_idle(targeted: list[str], patterns: Iterable[str], key: str) -> None:
    """PEFT's way to match: a regular expression for the end of the name, from a dot on."""
    for pattern in patterns:
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in targeted):
            endings = sorted({name.rpartition(".")[2] for name in targeted})
            raise RecipeError(f"{key}: {pattern} matches no module with LoRA", fix=f"there are {', '.join(endings)}")
