"""What is done with targets before, and with the losses of rows after, whichever way the loss is computed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from launcher_kernels.formula import (
    Formula,
    Rows,
    Stat,
    entropy_of_rows,
    logsumexp,
    loss_of_rows,
    square_of_rows,
    weight_of_targets,
)
from launcher_kernels.output import EXTRAS, CrossEntropy

REDUCTIONS = ("none", "mean", "sum")
NUM_RESULTS = 1 + len(EXTRAS)


@dataclass(frozen=True)
class Reduction:
    """How losses of rows become one number. `num_items` as a tensor is never read on the host."""

    name: str
    num_items: int | Tensor | None = None

    def factor(self, rows: Rows) -> Tensor | float:
        """What the sum over rows is multiplied with."""
        if self.num_items is not None:
            of = rows.coefficients
            if isinstance(self.num_items, Tensor):
                return 1 / self.num_items.to(of.device, of.dtype, non_blocking=True)
            return 1 / self.num_items
        return 1 / weight_of_targets(rows) if self.name == "mean" else 1.0


def check(rows: torch.Size, dtype: torch.dtype, vocabulary: int, target: Tensor, **options: Any) -> None:
    """Raises ValueError for what can be seen without looking at numbers. `rows` and `dtype` are those of the inputs."""
    if not dtype.is_floating_point:
        raise ValueError(f"the inputs are {dtype}, not floating-point numbers")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target holds {target.dtype}, not class indices")
    expected = {"target": rows, "token_weight": rows, "class_weight": (vocabulary,)}
    for name, tensor in {"target": target, **{n: options[n] for n in ("token_weight", "class_weight")}}.items():
        if tensor is not None and tuple(tensor.shape) != tuple(expected[name]):
            raise ValueError(f"shapes do not fit: {name} {tuple(tensor.shape)}, expected {tuple(expected[name])}")
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} gets no gradient: detach it")
    numbers = {name: options[name] for name in ("label_smoothing", "z_loss", "softcap", "scale")}
    if tensors := [name for name, number in numbers.items() if isinstance(number, Tensor)]:
        raise ValueError(f"{', '.join(tensors)} gets no gradient: give a number")
    _check_numbers(options["label_smoothing"], options["z_loss"], options["softcap"], options["shift"])
    _check_result(options["returns"], options["reduction"], options["num_items"])


def _check_numbers(label_smoothing: float, z_loss: float, softcap: float | None, shift: int) -> None:
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not between 0 and 1")
    if z_loss < 0:
        raise ValueError(f"z_loss {z_loss} is below zero")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap {softcap} is not above zero: None means no cap")
    if shift < 0:
        raise ValueError(f"shift {shift} is below zero")


def _check_result(returns: Collection[str], reduction: str, num_items: int | Tensor | None) -> None:
    if isinstance(returns, str):
        raise ValueError(f"returns is a collection of names: ({returns!r},)")
    if unknown := sorted(set(returns) - set(EXTRAS)):
        raise ValueError(f"returns: {', '.join(unknown)} is none of {', '.join(EXTRAS)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is none of {', '.join(REDUCTIONS)}")
    if num_items is not None and reduction == "none":
        raise ValueError("num_items divides a sum, and reduction 'none' has none")
    if isinstance(num_items, Tensor) and num_items.numel() != 1:
        raise ValueError(f"num_items has shape {tuple(num_items.shape)}, not one number")
    if num_items is not None and not isinstance(num_items, Tensor | torch.SymInt):
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise ValueError(f"num_items {num_items!r} is neither an int nor a tensor")
        if num_items <= 0:
            raise ValueError(f"num_items {num_items} is not above zero")


def shifted(values: Tensor, shift: int, fill: int) -> Tensor:
    """Position t gets the value of position t + shift of the last dimension; what moves in from behind is `fill`."""
    if not shift:
        return values
    moved = torch.full_like(values, fill, memory_format=torch.contiguous_format)
    moved[..., :-shift] = values[..., shift:]
    return moved


def rows_of(tensor: Tensor) -> Tensor:
    """(..., H) as (N, H)."""
    return tensor.flatten(0, -2) if tensor.ndim > 1 else tensor.unsqueeze(0)


def flat(target: Tensor, token_weight: Tensor | None, shift: int, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Shifted and in one dimension; a token's weight goes with its target."""
    # First to 64 bits: fewer may not hold every class, or the index that is ignored.
    target = shifted(target.long(), shift, ignore_index).reshape(-1)
    if token_weight is not None:
        token_weight = shifted(token_weight, shift, 0).reshape(-1)
    return target, token_weight


def check_range(target: Tensor, formula: Formula) -> None:
    """IndexError on a CPU; on a GPU an assertion that waits for nothing, and NaN where assertions are off (`prepare`)."""
    fine = (target == formula.ignore_index) | ((target >= 0) & (target < formula.vocabulary))
    message = (
        f"a target lies outside the vocabulary of {formula.vocabulary} (or is not ignore_index {formula.ignore_index})"
    )
    if target.device.type != "cpu":
        torch._assert_async(fine.all(), message)
    elif not bool(fine.all()):
        raise IndexError(message)


def kept_rows(target: Tensor, ignore_index: int, n_valid: int | None) -> Tensor | None:
    """Indices of the rows that count, ascending; None for all rows. Waits for the device unless `n_valid` is given."""
    valid = target != ignore_index
    if n_valid is None:
        kept = valid.nonzero().squeeze(1)
        return None if kept.numel() == target.numel() else kept
    message = f"n_valid {n_valid} is not the number of targets that are not ignored"
    if target.device.type != "cpu":
        torch._assert_async(valid.sum() == n_valid, message)
    elif int(valid.sum()) != n_valid:
        raise ValueError(message)
    if n_valid == target.numel():
        return None
    return torch.sort(valid.to(torch.uint8), descending=True, stable=True).indices[:n_valid]


def results(
    stats: Tensor,
    rows: Rows,
    reduction: str,
    returns: Collection[str],
    kept: Tensor | None,
    num_rows: int,
    late: Tensor | float,
) -> list[Tensor]:
    """[loss, *EXTRAS] from the stats of the rows that count; an empty tensor for what was not asked for.

    `late` is a factor that the coefficients do not have yet.
    """

    def whole(values: Tensor, fill: float) -> Tensor:
        if kept is None:
            return values
        return values.new_full((num_rows,), fill).index_copy_(0, kept, values)

    loss = loss_of_rows(stats, rows)
    argmax = torch.where(rows.label >= 0, stats[Stat.ARGMAX].long(), -1)
    extras = {
        "correct": lambda: ((argmax == rows.label) & (rows.label >= 0)).sum(),
        "argmax": lambda: whole(argmax, -1),
        "entropy": lambda: whole(entropy_of_rows(stats, rows), 0),
        "logsumexp": lambda: whole(torch.where(rows.label >= 0, logsumexp(stats), 0), 0),
        "z_loss": lambda: square_of_rows(stats, rows).sum() * late,
    }
    first = whole(loss, 0) if reduction == "none" else loss.sum() * late
    return [first, *(extras[name]() if name in returns else stats.new_empty(0) for name in EXTRAS)]


def empty_results(like: Tensor, num_rows: int, reduction: str, returns: Collection[str]) -> list[Tensor]:
    """Tensors of the shapes and types of `results`, for tracing."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    row, scalar = (num_rows,), ()
    shapes = {"correct": scalar, "argmax": row, "entropy": row, "logsumexp": row, "z_loss": scalar}
    integer = ("correct", "argmax")
    extras = [
        like.new_empty(shapes[n] if n in returns else 0, dtype=torch.int64 if n in integer and n in returns else dtype)
        for n in EXTRAS
    ]
    return [like.new_empty(row if reduction == "none" else scalar, dtype=dtype), *extras]


def shaped(found: Sequence[Tensor], shape: torch.Size, reduction: str, returns: Collection[str]) -> CrossEntropy:
    """The results as a caller sees them."""
    loss, *extras = found
    named = dict(zip(EXTRAS, extras, strict=True))
    rows = {name: named[name].view(shape) for name in returns if name in ("argmax", "entropy", "logsumexp")}
    return CrossEntropy(
        loss.view(shape) if reduction == "none" else loss, **{name: named[name] for name in returns} | rows
    )


def of_gradients(factor: Tensor | float) -> Tensor | float:
    """A factor of the loss as one of gradients: 1 / 0 where nothing counts makes the mean NaN, but no gradient."""
    return torch.nan_to_num(factor, nan=torch.nan, posinf=0.0) if isinstance(factor, Tensor) else factor


def without_ignored(factor: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """What comes from above to rows that do not count is left there: it may be inf, and 0 * inf is no gradient."""
    return factor.masked_fill(target == ignore_index, 0) if factor.ndim else factor


def upstream(gradient: Tensor, factor: Tensor | None, dtype: torch.dtype, may_overwrite: bool) -> Tensor:
    """A gradient times the one from above, a scalar or one number a row, in the dtype of what it belongs to."""
    if factor is None:
        return gradient.to(dtype)
    # Not without a dimension: a GPU would round such a factor to the gradient's dtype first.
    factor = factor.unsqueeze(1) if factor.ndim else factor.view(1)
    is_traced = type(gradient) is not Tensor  # which must not see a result of the forward pass change
    if is_traced or not may_overwrite or gradient.dtype != dtype:
        return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))
    is_one = factor.device.type == "cpu" and factor.numel() == 1 and float(factor) == 1
    return gradient if is_one else gradient.mul_(factor)
