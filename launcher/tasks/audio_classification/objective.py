"""The loss of a label for a sound, whoever shares its batch."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from launcher import chance, log
from launcher.data import sounds
from launcher.data.context import Context
from launcher.errors import RecipeError
from launcher.generation import in_eval_mode
from launcher.objectives import classification
from launcher.objectives.classification import Objective, plan_loss
from launcher.objectives.options import Classification

__all__ = ["Objective", "build", "plan_loss"]

OFF = 1e-3  # of a logit. A model that does not hear padding is off by rounding, one that does by some hundredths


def build(model: Any, options: Classification, context: Context) -> Objective:
    chance.switch_off_layer_drop(model)
    one_by_one = hears_padding(model, context.processor)
    return classification.build(model, options, context, partial(look, one_by_one))


def look(one_by_one: bool, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits (rows, labels). `one_by_one`: sounds of one length go through the model together, others apart, none padded."""
    lengths = inputs.pop("lengths", None)
    logits = by_length(model, lengths, inputs) if one_by_one else classification.logits_of(model, inputs)
    for name, parameter in model.named_parameters():
        if name.endswith("masked_spec_embed") and not hasattr(parameter, "ds_id"):
            logits = logits + 0 * parameter.sum()  # where no frame is masked, DDP would wait for its gradient
    return logits


def by_length(model: Any, lengths: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
    assert lengths is not None
    places = [(lengths == length).nonzero().squeeze(1) for length in lengths.unique()]
    logits = [
        classification.logits_of(
            model, {name: tensor[rows, : int(lengths[rows[0]])] for name, tensor in inputs.items()}
        )
        for rows in places
    ]
    return torch.cat(logits)[torch.cat(places).argsort()]


def hears_padding(model: Any, extractor: Any) -> bool:
    """Whether the model makes something else of a sound beside a longer one, tried on noise; a line says so.

    It does where its feature extractor makes no attention mask, as that of facebook/wav2vec2-base, and where its convolutions
    do not heed it (data2vec, SEW, Conformer). RecipeError under ZeRO-3: the models that heed it do not load there, see `plan`.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    both = sounds.together([_noise(0, 1.0, extractor), _noise(1, 1.5, extractor)], extractor)
    if "lengths" not in both:
        return False
    if is_deepspeed_zero3_enabled():
        raise RecipeError(
            "distributed.strategy zero3: models of waveforms hear padding, so that sounds would have to go through one by one, "
            "and ranks would wait for each other's weights",
            fix="use zero2",
        )
    heard = "attention_mask" not in both or _difference(model, both) > max(OFF, 8 * torch.finfo(model.dtype).eps)
    if heard:
        log.say("note: this model hears padding, so sounds of different lengths go through it one by one")
    return heard


@torch.no_grad()
def _difference(model: Any, both: dict[str, Tensor]) -> float:
    """Of the logits of the first sound, beside the second and alone, relative to the largest."""
    inputs = {name: tensor.to(model.device) for name, tensor in both.items()}
    lengths = inputs.pop("lengths")
    with in_eval_mode(model):
        together = classification.logits_of(model, inputs)[0].float()
        alone = by_length(model, lengths[:1], {name: tensor[:1] for name, tensor in inputs.items()})[0].float()
    return float((together - alone).abs().max() / alone.abs().max())


def _noise(seed: int, seconds: float, extractor: Any) -> Any:
    samples = round(seconds * sounds.shortest(extractor.sampling_rate))
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)).numpy()
