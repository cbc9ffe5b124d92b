"""The loss of a label for a sound."""

from typing import Any

import torch
from torch import Tensor

from launcher import chance
from launcher.data import sounds
from launcher.data.context import Context
from launcher.errors import RecipeError
from launcher.objectives import classification
from launcher.objectives.classification import Objective, plan_loss
from launcher.objectives.options import Classification

__all__ = ["Objective", "build", "plan_loss"]


def build(model: Any, options: Classification, context: Context) -> Objective:
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled() and sounds.goes_by_length(context.processor):
        raise RecipeError(
            "distributed.strategy zero3: this model takes no attention mask, so sounds of different lengths go through it "
            "one after the other, and ranks would wait for each other's weights",
            fix="use zero2, or a model whose feature extractor has return_attention_mask: true",
        )
    chance.switch_off_layer_drop(model)
    return classification.build(model, options, context, by_length)


def by_length(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits (rows, labels). Where there are `lengths`, sounds of one length go through the model together and without padding.

    A model without an attention mask takes padding for sound: it would hear a clip otherwise beside longer ones.
    """
    lengths = inputs.pop("lengths", None)
    if lengths is None:
        return classification.logits_of(model, inputs)
    places = [(lengths == length).nonzero().squeeze(1) for length in lengths.unique()]
    logits = [
        classification.logits_of(
            model, {name: tensor[rows, : int(lengths[rows[0]])] for name, tensor in inputs.items()}
        )
        for rows in places
    ]
    return torch.cat(logits)[torch.cat(places).argsort()]
