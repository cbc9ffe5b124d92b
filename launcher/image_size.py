"""How large a picture is when the model sees it: `data.image_size`, in the words of each image processor.

| the processor's size | image_size: N | image_size: [height, width] |
| --- | --- | --- |
| height, width | N x N | both |
| shortest_edge, then a crop from the middle | shortest edge N, crop N x N | shortest edge the greater one, crop both |
| shortest_edge alone | N | refused, unless height = width |
| shortest_edge and longest_edge | shortest edge N, longest in proportion | both, whatever the picture's proportions |
"""

from typing import Any

from launcher import model_init
from launcher.errors import RecipeError
from launcher.recipe import Recipe
from launcher.task import Traits


def fitted(processor: Any, recipe: Recipe, traits: Traits) -> Any:
    """The processor with the size of the recipe; of a task in which places matter, without a crop."""
    size = _wanted(recipe)
    crops = bool(getattr(processor, "do_center_crop", False))
    if size is None and not (crops and not traits.crops_pictures):
        return processor
    if getattr(processor, "size", None) is None:
        raise RecipeError(
            f"{type(processor).__name__} has no size to set", where=recipe.origin("data.image_size"), fix="take it out"
        )
    changes = _changes(processor, size or _size_of_crop(processor), crops, traits, recipe)
    return type(processor).from_dict({**processor.to_dict(), **changes})


def _wanted(recipe: Recipe) -> int | tuple[int, int] | None:
    """Of the data, or that for which a model from model.init is made."""
    if recipe.data.image_size is not None or recipe.model.init is None:
        return recipe.data.image_size
    found = model_init.values(recipe.model.init).get("image_size")
    return tuple(found) if isinstance(found, list | tuple) else found  # type: ignore[return-value]


def _size_of_crop(processor: Any) -> tuple[int, int]:
    return processor.crop_size["height"], processor.crop_size["width"]


def _changes(
    processor: Any, size: int | tuple[int, int], crops: bool, traits: Traits, recipe: Recipe
) -> dict[str, Any]:
    height, width = size if isinstance(size, tuple) else (size, size)
    both, known = {"height": height, "width": width}, dict(processor.size)
    if "longest_edge" in known and isinstance(size, int):
        longest = round(size * known["longest_edge"] / known.get("shortest_edge", known["longest_edge"]))
        return {"size": {**known, "longest_edge": longest, **({"shortest_edge": size} if len(known) > 1 else {})}}
    if "shortest_edge" not in known or "longest_edge" in known:
        return {"size": both, **({"crop_size": both} if crops else {}), **_uncropped(crops, traits)}
    if crops and not traits.crops_pictures:
        return {"size": both, **_uncropped(crops, traits)}
    if not crops and height != width:
        raise RecipeError(
            f"data.image_size: {type(processor).__name__} makes squares",
            where=recipe.origin("data.image_size"),
            fix="give one number",
        )
    return {"size": {"shortest_edge": max(height, width)}, **({"crop_size": both} if crops else {})}


def _uncropped(crops: bool, traits: Traits) -> dict[str, Any]:
    return {"do_center_crop": False} if crops and not traits.crops_pictures else {}
