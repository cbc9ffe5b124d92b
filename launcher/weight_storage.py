"""How a run stores the weights that it does not train, and in what it multiplies them. Pure: no torch."""

from dataclasses import dataclass, replace

from launcher.errors import RecipeError
from launcher.notes import Notes
from launcher.precision import COMPUTE_DTYPES
from launcher.recipe import Recipe
from launcher.support import Combination


@dataclass(frozen=True)
class Quantized:
    """A base whose linear layers are stored in few bits."""

    quant_type: str
    text: str
    remainder: str


def derive(notes: Notes, recipe: Recipe, quantized: Quantized | None) -> None:
    """`quantization` and `compute_dtype`; `quantized` is None where the model's configuration cannot be read."""
    if recipe.method != "qlora":
        notes.put("quantization", None, "only for method qlora")
        notes.put("compute_dtype", None, "only for method qlora")
        return
    if quantized is None:
        notes.put("quantization", None, "unknown: the model's configuration cannot be read")
    else:
        notes.put("quantization", quantized.text, quantized.remainder)
    asked = recipe.quantization.compute_dtype if recipe.quantization is not None else "auto"
    if quantized is not None and quantized.quant_type == "int8":
        notes.put("compute_dtype", None, "int8 layers compute as their input comes")
    elif asked == "auto":
        notes.put("compute_dtype", COMPUTE_DTYPES[notes["precision"]], "auto: the precision")
    elif asked == "float16" and notes["device"] == "cpu":
        raise RecipeError(
            "quantization.compute_dtype: float16 needs a GPU",
            where=recipe.origin("quantization.compute_dtype"),
            fix="use auto, bfloat16 or float32",
        )
    else:
        notes.take("compute_dtype", "quantization.compute_dtype", asked)


def combination(recipe: Recipe, quantized: Quantized | None, **known: str) -> Combination:
    """The choices of a recipe with what is `known` by now; a checkpoint that is quantised already decides its type itself."""
    if quantized is not None:
        known["quantization"] = quantized.quant_type
    return replace(Combination.of(recipe), **known)  # type: ignore[arg-type]
