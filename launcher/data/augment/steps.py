"""The steps of `data.augment` and their options, which are done in the order of the recipe. Imports the ground alone."""

from typing import Annotated, Literal

from pydantic import Field

from launcher.section import Section

Probability = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=1)]


class Step(Section):
    """What all steps have."""

    probability: Probability = 1.0
    """Of a row, each time it is trained on, to be changed by this step."""


class OfWords(Step):
    """What the steps of texts have, after EDA (Wei and Zou, arXiv:1901.11196)."""

    share: Probability = 0.1
    """Share of the words that are changed, on average."""
    unit: Literal["word", "character"] = "word"
    """What stands between white space, or each character, for scripts that leave none."""


class RandomDeletion(OfWords):
    """Leaves words out; one at least stays."""

    name: Literal["random_deletion"]
    """random_deletion."""


class RandomSwap(OfWords):
    """Puts words in each other's place."""

    name: Literal["random_swap"]
    """random_swap."""


class RandomMasking(OfWords):
    """Puts the tokenizer's mask token in place of words."""

    name: Literal["random_masking"]
    """random_masking."""


class SynonymReplacement(OfWords):
    """Puts another word of the same meaning in place of one, from a list."""

    name: Literal["synonym_replacement"]
    """synonym_replacement."""
    path: Annotated[str, Field(min_length=1)]
    """The list: a .json file {word: [synonym, ...]}, or a text file with words of one meaning on a line, commas between."""


class RandomCrop(Step):
    """Cuts a part out of a picture and enlarges it to the picture's size."""

    name: Literal["random_crop"]
    """random_crop."""
    min_scale: Scale = 0.5
    """Smallest share of the area that is kept; the largest is 1."""
    min_ratio: Scale = 0.75
    """Smallest proportion of the part, width to height, relative to the picture's; the largest is its inverse."""


class Flip(Step):
    """Mirrors a picture."""

    name: Literal["flip"]
    """flip."""
    probability: Probability = 0.5
    """Of a row, each time it is trained on, to be changed by this step."""
    direction: Literal["horizontal", "vertical"] = "horizontal"
    """Left and right change places, or top and bottom."""


class Rotation(Step):
    """Turns a picture around its centre."""

    name: Literal["rotation"]
    """rotation."""
    degrees: Annotated[float, Field(gt=0, le=180)] = 15.0
    """By at most so much, either way."""


class ColorJitter(Step):
    """Changes the colours of a picture, each by a factor between 1 - x and 1 + x."""

    name: Literal["color_jitter"]
    """color_jitter."""
    brightness: Strength = 0.2
    """x of the brightness."""
    contrast: Strength = 0.2
    """x of the contrast."""
    saturation: Strength = 0.2
    """x of the saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a share of the circle of colours."""


class RandAugment(Step):
    """Several changes of shape and colour, drawn anew for each picture (Cubuk et al., arXiv:1909.13719)."""

    name: Literal["rand_augment"]
    """rand_augment."""
    num_ops: Annotated[int, Field(ge=1)] = 2
    """Changes a picture."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """How strong they are: 0 is nothing, 30 the most."""


OF_TEXTS = (RandomDeletion, RandomSwap, RandomMasking, SynonymReplacement)
OF_PICTURES = (RandomCrop, Flip, Rotation, ColorJitter, RandAugment)
AugmentStep = Annotated[
    RandomDeletion
    | RandomSwap
    | RandomMasking
    | SynonymReplacement
    | RandomCrop
    | Flip
    | Rotation
    | ColorJitter
    | RandAugment,
    Field(discriminator="name"),
]
