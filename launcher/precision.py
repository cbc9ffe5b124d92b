"""What a run computes in, and what it keeps its weights in. Pure: no torch.

fp32 and tf32 weights and activations are fp32. bf16 and fp16 are autocast: products take 16 bits, what is trained stays fp32.
"""

from launcher.errors import RecipeError
from launcher.notes import Notes
from launcher.recipe import Recipe
from launcher.world import World

HALF = ("bf16", "fp16")
COMPUTE_DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # PyTorch's names
INITIAL_SCALE_POWER, GROWTH_INTERVAL = 16, 2000  # fp16: the first loss scale is 2^16; steps until it is doubled


def derive(notes: Notes, recipe: Recipe, world: World) -> None:
    """`precision` and `model_dtype`, each with why; what this device cannot do, or would only pretend to do, is refused."""
    precision = _auto(notes, recipe, world) if recipe.training.precision == "auto" else _asked(notes, recipe, world)
    _weights(notes, recipe, precision)


def _auto(notes: Notes, recipe: Recipe, world: World) -> str:
    if recipe.model.dtype in HALF:
        reason = f"auto: as model.dtype ({recipe.origin('model.dtype')})"
        return str(notes.put("precision", recipe.model.dtype, reason + _slowness(recipe.model.dtype, world)))
    if world.device == "cpu":
        why = "has AMX tiles for bf16" if world.bf16 else "has no AMX tiles, so bf16 would be slower"
        return str(notes.put("precision", "bf16" if world.bf16 else "fp32", f"auto: this CPU {why}"))
    has = "" if world.bf16 else "no "
    return str(notes.put("precision", "bf16" if world.bf16 else "fp16", f"auto: the GPU has {has}bf16"))


def _asked(notes: Notes, recipe: Recipe, world: World) -> str:
    precision, where = recipe.training.precision, recipe.origin("training.precision")
    if precision in ("tf32", "bf16") and world.device == "cuda" and not world.bf16:
        raise RecipeError(f"this GPU has no {precision}, which began with Ampere", where=where, fix="use auto or fp16")
    return str(notes.put("precision", precision, where + _slowness(precision, world)))


def _slowness(precision: str, world: World) -> str:
    """Half precision on a CPU is worth trying out, but no one should wait for it unknowingly."""
    if world.device != "cpu" or precision not in HALF or (precision == "bf16" and world.bf16):
        return ""
    return "; slower than fp32 on this CPU" if precision == "bf16" else "; on a CPU to try out what a GPU will do"


def _weights(notes: Notes, recipe: Recipe, precision: str) -> None:
    dtype: str = recipe.model.dtype
    origin = recipe.origin("model.dtype")
    if dtype == "auto" and recipe.method == "full":
        dtype, origin = "fp32", "auto: weights that are trained are kept in fp32"
    elif dtype == "auto":
        dtype = precision if precision in HALF else "fp32"
        origin = "auto: frozen weights are kept in the compute precision"
    notes.put("model_dtype", dtype, origin)
