"""One picture through a model without storage, forth and back: what it refuses, and which of its weights it has no use for."""

from typing import Any

import torch

from launcher.data import pictures
from launcher.errors import RecipeError
from launcher.recipe import Recipe
from launcher.task import Traits


def unused(model: Any, processor: Any, recipe: Recipe, traits: Traits) -> tuple[str, ...] | None:
    """Trained parameters that the outputs do not depend on; None where the meta device cannot tell. `model`: on the meta device.

    RecipeError where the model refuses pictures of the size that the processor makes.
    """
    was_training = model.training
    model.eval()  # one picture may be too few to normalise a batch of
    try:
        with torch.device("meta"):
            said = model(pixel_values=torch.empty(1, *pictures.seen(pictures.black(), processor).shape))
        sum(said[name].float().sum() for name in traits.output_names).backward()
        return tuple(name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None)
    except ValueError as error:
        problem = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"data.image_size: {type(model).__name__} does not take the pictures that its processor makes: {problem}",
            where=recipe.origin("data.image_size"),
            fix="set data.image_size to what the model was made for",
        ) from error
    except (NotImplementedError, RuntimeError):
        return None
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
