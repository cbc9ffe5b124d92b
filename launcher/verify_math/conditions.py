"""What is done to a model so that two computations of one step can be compared, and differ where the code is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launcher import chance, tensor_files
from launcher.errors import RecipeError
from launcher.run import Run
from launcher.verify_math.measure import MicroBatches

START = "start"  # file of the values that stand in for matrices that are all zero
START_STD = 0.02  # as models are initialised
FINGERPRINT_VALUES = 4096
Fingerprints = Mapping[str, Sequence[float]]


def switch_off_dropout(objective: Any) -> None:
    """Set every probability to zero, whoever reads it.

    The model stays in train mode: in eval mode, activation checkpointing would be off, too.
    """
    chance.switch_off(objective.model, *objective.modules())


def without_chance(run: Run, micro_batches: MicroBatches) -> bool:
    """Switch off dropout; whether there was any. RecipeError where the loss of a batch still depends on the seed."""
    had_dropout = _depends_on_seed(run, micro_batches)
    switch_off_dropout(run.objective)
    if _depends_on_seed(run, micro_batches):
        raise RecipeError(
            "the model draws random numbers that are not dropout, so no two computations of a step can be compared",
            where=run.recipe.origin("model"),
        )
    return had_dropout


def fill_zero_matrices(run: Run, folder: Path) -> int:
    """Trained matrices that are all zero (LoRA's B) leave others without a gradient: give them small random values.

    They are left in `folder` for `same_start`. Returns how many there are.
    """
    random = torch.Generator().manual_seed(run.plan.seed)
    trained = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    filled = {
        name: START_STD * torch.randn(value.shape, generator=random)
        for name, value in run.engine.weights(run.model, only=trained)
        if value is not None and value.ndim > 1 and not value.any()
    }
    tensor_files.write(folder, START, filled.items())
    _load_start(run, folder)
    return len(filled)


def fingerprints(run: Run) -> Fingerprints:
    """Of the beginning of each trained parameter, a sum with other factors for each value, and the norm; none but on rank zero."""
    trained = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    factors = torch.arange(FINGERPRINT_VALUES).double().cos()
    beginnings = {
        name: value.flatten()[:FINGERPRINT_VALUES].double()
        for name, value in run.engine.weights(run.model, only=trained)
        if value is not None
    }
    return {name: (float(few @ factors[: len(few)]), float(few.norm())) for name, few in beginnings.items()}


def starts_elsewhere(found: Fingerprints, known: Fingerprints) -> str | None:
    """The first parameter whose value is not the reference's. To keep it in 16 bits moves the sum by some 2^-9 of the norm."""
    return next((name for name in found if abs(found[name][0] - known[name][0]) > 1e-2 * known[name][1]), None)


def same_start(run: Run, folder: Path) -> None:
    """No dropout, and the values that `fill_zero_matrices` has left."""
    switch_off_dropout(run.objective)
    _load_start(run, folder)


def reversed_rows(micro_batches: MicroBatches) -> MicroBatches:
    return [(number, {name: tensor.flip(0) for name, tensor in batch.items()}) for number, batch in micro_batches]


def nudge(objective: nn.Module) -> None:
    """Move every weight to its neighbour, up or down by chance: what a computation in this precision may well do."""
    device = next(objective.parameters()).device
    random = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for weight in objective.parameters():
            if weight.is_floating_point():
                up = torch.rand(weight.shape, generator=random, device=device) < 0.5
                weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf).to(weight.dtype)))


def _load_start(run: Run, folder: Path) -> None:
    if any(folder.glob(f"{START}*")):
        run.engine.load_weights(run.model, tensor_files.read(folder, START))


def _depends_on_seed(run: Run, micro_batches: MicroBatches) -> bool:
    """Of two forward passes in train mode. Without chance they differ by rounding at most, on a GPU."""
    losses = []
    for number in (0, 1):
        run.engine.seed(0, number)
        terms = run.engine.evaluate(micro_batches[0][1]).terms.values()
        losses.append(sum(weight * float(value) / (float(count) or 1) for value, count, weight in terms))
    return abs(losses[0] - losses[1]) > 1e-5 * abs(losses[0])
