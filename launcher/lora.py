"""LoRA through PEFT: the options and the wrapping that `lora` and `qlora` share (Hu et al., arXiv:2106.09685)."""

from typing import Annotated, Any

from pydantic import Field

from launcher.errors import RecipeError
from launcher.section import Section


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
    """Modules that are trained in full and saved beside the adapter."""
    use_rslora: bool = False
    """Scale by sqrt(r) instead of r (Kalajdzievski, arXiv:2312.03732)."""
    use_dora: bool = False
    """Train magnitude and direction apart (Liu et al., arXiv:2402.09353)."""


def apply_lora(model: Any, options: LoraOptions) -> Any:
    """The model wrapped by PEFT, all but the update frozen. Names the targets that match nothing."""
    import peft

    targets = options.target_modules
    _refuse_unmatched(model, () if isinstance(targets, str) else targets, "target_modules")
    _refuse_unmatched(model, options.modules_to_save, "modules_to_save")
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(options.modules_to_save) or None,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        fan_in_fan_out=any(
            type(module).__name__ == "Conv1D" for module in model.modules()
        ),  # GPT-2 stores W transposed
    )
    try:
        return peft.get_peft_model(model, lora, autocast_adapter_dtype=True)
    except ValueError as error:
        raise RecipeError(f"PEFT refuses adapter.target_modules {targets!r}: {error}") from error


def merge_lora(model: Any) -> Any:
    """The base model with the update folded into its weights; the adapter is gone afterwards."""
    return model.merge_and_unload(safe_merge=True)


def _refuse_unmatched(model: Any, names: tuple[str, ...], key: str) -> None:
    modules = [name for name, _ in model.named_modules()]
    unmatched = [n for n in names if not any(m == n or m.endswith("." + n) for m in modules)]
    if unmatched:
        endings = sorted({m.rpartition(".")[2] for m in modules if not m.rpartition(".")[2].isdigit()} - {""})
        raise RecipeError(
            f"adapter.{key}: {', '.join(unmatched)} matches no module", fix=f"the model has {', '.join(endings)}"
        )
