"""Integrated gradients of a score with respect to embeddings, pixels or samples, on the straight line from a baseline."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from launcher.errors import EnvironmentProblem, RecipeError

Score = Callable[[Any], Tensor]
NEAR_ZERO = 0.1  # of the length of the input's embeddings
TOO_FAR = 0.05  # of the difference that the attributions should add up to


@dataclass(frozen=True)
class Attributed:
    """`values`: fp32, in the shape of the input. `output`, `baseline_output`: the score of the input and of the baseline."""

    values: Tensor
    output: float
    baseline_output: float

    @property
    def difference(self) -> float:
        return self.output - self.baseline_output

    @property
    def delta(self) -> float:
        """By how much the attributions miss `difference`, which they add up to exactly with endless steps (completeness)."""
        return float(self.values.double().sum()) - self.difference

    @property
    def is_far_off(self) -> bool:
        return abs(self.delta) > TOO_FAR * abs(self.difference)


def integrated(
    score: Callable[[Tensor], Tensor], given: Tensor, baseline: Tensor, steps: int, at_once: int
) -> Attributed:
    """`score`: (rows, ...) -> (rows,). given, baseline: (1, ...). Gauss-Legendre with `steps` points, `at_once` in one pass."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise EnvironmentProblem(
            "launcher explain needs captum, which is not installed", fix="pip install 'finetune-launcher[explain]'"
        ) from None
    how = {"n_steps": steps, "method": "gausslegendre", "internal_batch_size": at_once}
    values = IntegratedGradients(score).attribute(given, baselines=baseline, **how)
    with torch.no_grad():
        ends = [float(score(point)[0]) for point in (given, baseline)]
    return Attributed(values.detach().float().cpu(), *ends)


def of_input(
    model: Any, inputs: Mapping[str, Tensor], name: str, score: Score, baseline: Tensor, steps: int, at_once: int
) -> Attributed:
    """With respect to the tensor `name` of the inputs."""

    def scored(values: Tensor) -> Tensor:
        return score(model(**{**_repeated(inputs, len(values)), name: values}))

    return integrated(scored, inputs[name], baseline, steps, at_once)


def of_embeddings(
    model: Any, inputs: Mapping[str, Tensor], score: Score, baseline_ids: Tensor, steps: int, at_once: int
) -> Attributed:
    """With respect to the output of the embedding of tokens. baseline_ids (1, tokens); without values below zero, which stand for
    an embedding of zeros. Token ids stay those of the input, so that positions and what is read from the last token do not move.
    """
    layer = embedding_of(model)
    with torch.no_grad():
        given = layer(inputs["input_ids"]).float()
        baseline = layer(baseline_ids.clamp(min=0)).float() * (baseline_ids >= 0)[..., None]

    def scored(values: Tensor) -> Tensor:
        with _in_place_of(layer, values):
            return score(model(**_repeated(inputs, len(values))))

    return integrated(scored, given, baseline, steps, at_once)


def is_near_zero(model: Any, token_id: int, ids: Tensor) -> bool:
    """Whether the embedding of a baseline (below zero: of zeros) is much shorter than those of the input; there the norms of most
    decoders turn a small step into a large one."""
    if token_id < 0:
        return True
    with torch.no_grad():
        lengths = [
            embedding_of(model)(tokens).float().norm(dim=-1).mean() for tokens in (torch.full_like(ids, token_id), ids)
        ]
    return bool(lengths[0] < NEAR_ZERO * lengths[1])


def embedding_of(model: Any) -> Any:
    """Of the input, where a model reads one text and writes another."""
    reader = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    return reader.get_input_embeddings()


@contextmanager
def _in_place_of(layer: Any, values: Tensor) -> Iterator[None]:
    """The first call of `layer` gives `values`; T5's decoder embeds by the same module, and after the encoder."""
    calls = []

    def put(module: Any, args: Any, output: Tensor) -> Tensor:
        calls.append(output.shape)
        return values.to(output.dtype) if len(calls) == 1 else output

    handle = layer.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
    if not calls or calls[0] != values.shape:
        raise RecipeError(f"this model does not take its input from {type(layer).__name__}, so it cannot be explained")


def _repeated(inputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in inputs.items()}
