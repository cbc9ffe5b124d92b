"""Which parts of an input a prediction rests on: integrated gradients (Sundararajan et al., arXiv:1703.01365), by Captum.

`gradients` integrates, `texts`, `generated` and `media` say what of a task's model is explained and what its input is made of,
`explainer` brings them together, `page` writes what was found. Only `launcher explain` needs Captum.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TEXTS = ("text_classification", "text_regression", "token_classification", "question_answering")
GENERATED = ("causal_lm", "seq2seq_lm")
MEDIA = ("image_classification", "audio_classification")
TASKS = (*TEXTS, *GENERATED, *MEDIA)


@dataclass(frozen=True)
class Piece:
    """A token. `start`, `end`: its characters in the text number `part`, None of a token that the tokenizer added. `special`: it
    is not replaced in the baseline, so nothing is attributed to it."""

    token: str
    part: int = 0
    start: int | None = None
    end: int | None = None
    special: bool = False


@dataclass(frozen=True)
class Asked:
    """What is explained of one input.

    `inputs`: of the model, with one row. `score`: what the model says -> (rows,). `what`: the score in words. `label`: what was
    asked about, `predicted`: what the model says. `pieces`: one for each token of `inputs`, or none for pictures and sounds.
    """

    shown: str
    inputs: dict[str, Tensor]
    score: Callable[[Any], Tensor]
    what: str
    label: str
    predicted: str
    probability: float | None
    texts: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
