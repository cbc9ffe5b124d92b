"""The gradients in fp64, by hand and in blocks of rows, so that nothing of them depends on what is measured."""

from dataclasses import dataclass

import torch
from bench_cases import IGNORED, Inputs
from torch import Tensor

BLOCK = 2**26  # numbers of a block of logits, 0.5 GiB in fp64


@dataclass(frozen=True)
class Exact:
    """For the values that the inputs have after rounding. The names are those of `Inputs.trained`; of x, the first rows may do."""

    loss: float
    gradients: dict[str, Tensor]
    median_probability: float  # of the targets


def exact(inputs: Inputs, x_rows: int | None = None) -> Exact:
    """`x_rows`: how many rows of x's gradient are kept; logits have one too large for fp64."""
    weight = None if inputs.weight is None else _merged(inputs)
    of_weight = None if weight is None else torch.zeros_like(weight)
    of_x, losses, probabilities = [], [], []
    step = max(1, BLOCK // (inputs.x if weight is None else weight.t()).shape[1])
    for start in range(0, len(inputs.x), step):
        rows = slice(start, start + step)
        x = inputs.x.detach()[rows].to(torch.float64, copy=True)
        gradient, loss, probability = _softmax(x if weight is None else x @ weight.t(), inputs.target[rows])
        gradient /= inputs.num_valid
        if weight is not None:
            of_weight.addmm_(gradient.t(), x)
            gradient = gradient @ weight
        if x_rows is None or start < x_rows:
            of_x.append(gradient)
        losses.append(loss)
        probabilities.append(probability)
    found = {"x": torch.cat(of_x)[:x_rows]} | _by_chain_rule(inputs, of_weight)
    return Exact(torch.cat(losses).mean().item(), found, torch.cat(probabilities).median().item())


def _merged(inputs: Inputs) -> Tensor:
    weight = inputs.weight.detach().to(torch.float64, copy=True)
    if inputs.lora is not None:
        a, b, scale = inputs.lora
        weight += scale * b.detach().double() @ a.detach().double()
    return weight


def _softmax(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of every row's loss, in the memory of z; loss and probability of the targets that count."""
    valid = target != IGNORED
    label = target.where(valid, 0)[:, None]
    z = z.sub_(z.amax(1, keepdim=True))
    own = z.gather(1, label)
    total = z.exp_().sum(1, keepdim=True)
    loss = total.log() - own
    z.div_(total).scatter_add_(1, label, -torch.ones_like(own)).mul_(valid[:, None])
    return z, loss[valid, 0], (-loss[valid, 0]).exp()


def _by_chain_rule(inputs: Inputs, of_weight: Tensor | None) -> dict[str, Tensor]:
    if of_weight is None or inputs.lora is None:
        return {} if of_weight is None else {"weight": of_weight}
    a, b, scale = inputs.lora
    return {"A": scale * b.detach().double().t() @ of_weight, "B": scale * of_weight @ a.detach().double().t()}


def errors(loss: Tensor, gradients: dict[str, Tensor], truth: Exact) -> dict[str, float]:
    """Relative: of the loss, and of each gradient in the Frobenius norm."""
    found = {"loss": abs(float(loss) / truth.loss - 1)}
    found |= {name: _distance(gradient, truth.gradients[name]) for name, gradient in gradients.items()}
    wrong = [name for name, error in found.items() if not error < float("inf")]
    if wrong:
        raise ValueError(f"not finite: {', '.join(wrong)}")
    return found


def _distance(given: Tensor, truth: Tensor) -> float:
    """In pieces: a second gradient in fp64 may not fit."""
    step = max(1, BLOCK // truth.shape[1])
    apart = size = 0.0
    for some, exactly in zip(given[: len(truth)].split(step), truth.split(step), strict=True):
        apart += (some.double() - exactly).square().sum().item()
        size += exactly.square().sum().item()
    return (apart / size) ** 0.5
