"""Text that a model generates: what it is asked, how it answers, and what all tasks with answers do alike."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Question(NamedTuple):
    """`shown` is the prompt as a person reads it, `prompt` as the model does, `reference` the answer of the data."""

    shown: str
    prompt: str
    reference: str
    where: str = ""


@dataclass(frozen=True)
class Generation:
    """`num_beams`: 1 is greedy. `in_step`: ranks generate until the last of them has ended, since every step gathers weights."""

    max_new_tokens: int
    num_beams: int = 1
    batch_size: int = 16
    in_step: bool = False


def batches(asked: Sequence[Question], how: Generation) -> Iterator[Sequence[Question]]:
    yield from (asked[start : start + how.batch_size] for start in range(0, len(asked), how.batch_size))


@contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def generate(model: Any, inputs: Mapping[str, Tensor], how: Generation, pad_token_id: int) -> Tensor:
    """Token ids (rows, tokens) of the likeliest answer, nothing drawn by chance; a decoder alone repeats its inputs before it."""
    tokens: Tensor = model.generate(
        **inputs,
        max_new_tokens=how.max_new_tokens,
        num_beams=how.num_beams,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad_token_id,
        synced_gpus=how.in_step,
    )
    return tokens
