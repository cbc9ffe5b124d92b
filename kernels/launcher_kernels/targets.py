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
from launcher_kernels.heads import VocabShard
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


def arguments(
    rows: torch.Size,
    dtype: torch.dtype,
    columns: int,
    target: Tensor,
    *,
    class_weight: Tensor | None,
    token_weight: Tensor | None,
    ignore_index: int,
    shift: int,
    softcap: float | None,
    scale: float,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    num_items: int | Tensor | None,
    returns: Collection[str],
    vocab_shard: VocabShard | None,
) -> dict[str, Any]:
    """What both operators take, from what both functions are given: `rows` of `dtype`, with `columns` classes here.

    Raises:
        ValueError: for what can be seen without looking at numbers.
    """
    _check_tensors(rows, dtype, target, token_weight)
    _check_class_weight(class_weight, columns if vocab_shard is None else vocab_shard.total)
    _check_numbers(label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap, scale=scale, shift=shift)
    returns = _check_result(returns, reduction, num_items)
    flat_target, flat_weight = flat(target, token_weight, shift, ignore_index)
    return {
        "target": flat_target,
        "class_weight": class_weight,
        "token_weight": flat_weight,
        "num_items": num_items.reshape(()) if isinstance(num_items, Tensor) else None,
        "divisor": None if isinstance(num_items, Tensor) else num_items,
        "ignore_index": ignore_index,
        "softcap": softcap,
        "scale": scale,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "reduction": reduction,
        "returns": ",".join(returns),
        "group_name": "" if vocab_shard is None else vocab_shard.group_name,
        "shard_start": 0 if vocab_shard is None else vocab_shard.start,
        "shard_total": 0 if vocab_shard is None else vocab_shard.total,
    }


def formula_of(columns: int, a: dict[str, Any]) -> tuple[Formula, VocabShard | None]:
    """The formula that an operator's arguments stand for, and which part of the vocabulary is here."""
    shard = VocabShard(a["group_name"], a["shard_start"], a["shard_total"]) if a["group_name"] else None
    returns = a["returns"].split(",")
    formula = Formula(
        vocabulary=columns if shard is None else shard.total,
        wants_argmax=bool({"correct", "argmax"} & set(returns)),
        wants_entropy="entropy" in returns,
        **{name: a[name] for name in ("ignore_index", "softcap", "scale", "label_smoothing", "z_loss")},
    )
    return formula, shard


def _check_tensors(rows: torch.Size, dtype: torch.dtype, target: Tensor, token_weight: Tensor | None) -> None:
    if not dtype.is_floating_point:
        raise ValueError(f"the inputs are {dtype}, not floating-point numbers")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target holds {target.dtype}, not class indices")
    for name, tensor in {"target": target, "token_weight": token_weight}.items():
        if tensor is not None and tensor.shape != rows:
            raise ValueError(f"shapes do not fit: {name} {tuple(tensor.shape)}, expected {tuple(rows)}")
    _refuse_gradient("token_weight", token_weight)


def _check_class_weight(class_weight: Tensor | None, vocabulary: int) -> None:
    if class_weight is not None and (class_weight.ndim != 1 or class_weight.shape[0] != vocabulary):
        raise ValueError(f"shapes do not fit: class_weight {tuple(class_weight.shape)}, expected {(vocabulary,)}")
    _refuse_gradient("class_weight", class_weight)


def _refuse_gradient(name: str, tensor: Tensor | None) -> None:
    if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} gets no gradient: detach it")


def _check_numbers(label_smoothing: float, z_loss: float, softcap: float | None, scale: float, shift: int) -> None:
    numbers = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap, "scale": scale}
    if tensors := [name for name, number in numbers.items() if isinstance(number, Tensor)]:
        raise ValueError(f"{', '.join(tensors)} gets no gradient: give a number")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not between 0 and 1")
    if z_loss < 0:
        raise ValueError(f"z_loss {z_loss} is below zero")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap {softcap} is not above zero: None means no cap")
    if shift < 0:
        raise ValueError(f"shift {shift} is below zero")


def _check_result(returns: Collection[str], reduction: str, num_items: int | Tensor | None) -> tuple[str, ...]:
    """The names in `returns`, which may be an iterator."""
    if isinstance(returns, str):
        raise ValueError(f"returns is a collection of names: ({returns!r},)")
    names = tuple(returns)
    if unknown := sorted(set(names) - set(EXTRAS)):
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
    return names


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
    returns: str,
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
    return [first, *(extras[name]() if name in returns.split(",") else stats.new_empty(0) for name in EXTRAS)]


def empty_results(like: Tensor, num_rows: int, reduction: str, returns: str) -> list[Tensor]:
    """Tensors of the shapes and types of `results`, for tracing."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    row, scalar, wanted = (num_rows,), (), returns.split(",")
    shapes = {"correct": scalar, "argmax": row, "entropy": row, "logsumexp": row, "z_loss": scalar}
    integer = ("correct", "argmax")
    extras = [
        like.new_empty(shapes[n] if n in wanted else 0, dtype=torch.int64 if n in integer and n in wanted else dtype)
        for n in EXTRAS
    ]
    return [like.new_empty(row if reduction == "none" else scalar, dtype=dtype), *extras]


def shaped(found: Sequence[Tensor], shape: torch.Size, a: dict[str, Any]) -> CrossEntropy:
    """The results of an operator with arguments `a` as a caller sees them."""
    loss, *extras = found
    named = {name: value for name, value in zip(EXTRAS, extras, strict=True) if name in a["returns"].split(",")}
    named |= {name: named[name].view(shape) for name in ("argmax", "entropy", "logsumexp") if name in named}
    return CrossEntropy(loss.view(shape) if a["reduction"] == "none" else loss, **named)


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
