"""The three ways through the vocabulary (see `choice`). Each returns the stats of all rows and the gradients asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from launcher_kernels import rows as row_kernels
from launcher_kernels.choice import Choice, compute_dtype, pieces
from launcher_kernels.formula import Coefficient, Rows, Stat, merge, neutral_stats, slope_of_softmax, stats_of_no_class
from launcher_kernels.heads import SlicedWeight, VocabShard

HEAD = ("weight", "bias", "lora_b")
GRADIENTS = ("x", "low", *HEAD)


@dataclass(frozen=True)
class Problem:
    """Inputs of one loss: logits = x W^T + bias + lora_scale * low B^T, for the rows that count.

    Attributes:
        x: (N, H); `low`: (N, r); `kept`: (N',) the rows that count, None for all of them.
        weight: (V, H); `bias`: (V,); `lora_b`: (V, r), of this process's part of the vocabulary.
        rows: what the N' rows are compared with.
        needs: names of GRADIENTS.
    """

    x: Tensor
    weight: Tensor | SlicedWeight
    bias: Tensor | None
    low: Tensor | None
    lora_b: Tensor | None
    lora_scale: float
    kept: Tensor | None
    rows: Rows
    shard: VocabShard | None
    needs: frozenset[str]
    accumulate_dtype: torch.dtype | None = None

    @property
    def num_rows(self) -> int:
        return self.rows.label.numel()

    @property
    def start(self) -> int:
        return 0 if self.shard is None else self.shard.start

    @property
    def precision(self) -> torch.dtype:
        """Of the softmax, and of sums."""
        return torch.promote_types(self.x.dtype, torch.float32)

    @property
    def compute(self) -> torch.dtype:
        return compute_dtype(self.x.dtype, self.x.device.type)

    def some(self, tensor: Tensor | None, rows: slice) -> Tensor | None:
        """Some of the rows that count of `x` or `low`, in the precision of the products."""
        if tensor is None:
            return None
        part = tensor[rows] if self.kept is None else tensor.index_select(0, self.kept[rows])
        return part.to(self.compute)


@dataclass
class Solution:
    """Stats (len(Stat), N') over the whole vocabulary, and gradients of the summed loss."""

    stats: Tensor
    gradients: dict[str, Tensor]


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which a gradient waits for the factor from above: fp16 would lose the small ones before a loss scale can save them."""
    return torch.float32 if dtype == torch.float16 else dtype


def solve(p: Problem, choice: Choice) -> Solution:
    return METHODS[choice.method](p, choice)


def _chunk(p: Problem, choice: Choice) -> Solution:
    kernels = row_kernels.backend(p.x.device)
    weight, head = p.weight[:].to(p.compute), _Head(p)
    buffer = _buffer(p, min(choice.rows, p.num_rows), weight.shape[0])
    out = Solution(_no_stats(p), {})
    into = _Sums(p, out, is_final=choice.rows >= p.num_rows)
    for piece in pieces(p.num_rows, choice.rows):
        x, low, rows = p.some(p.x, piece), p.some(p.low, piece), p.rows[piece]
        z = head.logits(buffer[: x.shape[0], : weight.shape[0]], x, low, weight, slice(None))
        if not p.needs or p.shard is not None:
            stats = kernels.softmax_stats(z, rows, p.start)
            out.stats[:, piece] = stats if p.shard is None else p.shard.merge(stats)
            if p.needs:
                kernels.gradient_(z, out.stats[:, piece], rows, p.start)
        else:
            out.stats[:, piece] = kernels.stats_and_gradient_(z, rows)
        into.add_rows(piece, z, x, low, weight)
    into.finish()
    return out


def _recompute(p: Problem, choice: Choice) -> Solution:
    kernels = row_kernels.backend(p.x.device)
    head, everything = _Head(p), slice(0, p.num_rows)
    x, low = p.some(p.x, everything), p.some(p.low, everything)
    buffer = _buffer(p, p.num_rows, choice.columns)

    def logits(columns: slice) -> tuple[Tensor, Tensor]:
        weight = p.weight[columns].to(p.compute)
        return head.logits(buffer[:, : weight.shape[0]], x, low, weight, columns), weight

    out = Solution(_stats_by_slices(p, choice, lambda columns: logits(columns)[0]), {})
    if not p.needs:
        return out
    into = _Sums(p, out, is_final=True)
    for columns in pieces(p.weight.shape[0], choice.columns):
        z, weight = logits(columns)
        kernels.gradient_(z, out.stats, p.rows, p.start + columns.start)
        into.add_columns(columns, z, x, low, weight)
    into.finish()
    return out


def _stats_by_slices(p: Problem, choice: Choice, logits: Callable[[slice], Tensor]) -> Tensor:
    kernels = row_kernels.backend(p.x.device)
    stats = stats_of_no_class(p.num_rows, p.precision, p.x.device)
    for columns in pieces(p.weight.shape[0], choice.columns):
        part = kernels.softmax_stats(logits(columns), p.rows, p.start + columns.start)
        stats = merge(torch.stack([stats, part]))
    return stats if p.shard is None else p.shard.merge(stats)


def _stream(p: Problem, choice: Choice) -> Solution:
    """One pass, as attention goes over keys and values: sums are kept relative to the largest logit so far.

    The gradient of a row is a (O / s - (1 - p_y) W_y) with O the sum over the other classes. The target is left out of O because
    p_y W_y - W_y would lose all digits where p_y is near one.
    """
    kernels = row_kernels.backend(p.x.device)
    whole = slice(0, p.num_rows)
    x, low = p.some(p.x, whole), p.some(p.low, whole)
    x = x if low is None else torch.cat([x, low], 1)  # LoRA's factors are more columns of x and of the weight
    bias = None if p.bias is None else p.bias.to(p.compute)
    buffer = _buffer(p, p.num_rows, choice.columns)
    others = torch.zeros_like(x, dtype=p.precision)
    smooth = torch.zeros_like(others) if p.rows.formula.label_smoothing else None
    of_target, stats = torch.zeros_like(x), stats_of_no_class(p.num_rows, p.precision, x.device)
    for columns in pieces(p.weight.shape[0], choice.columns):
        weight, start = p.weight[columns].to(p.compute), p.start + columns.start
        if low is not None:
            weight = torch.cat([weight, p.lora_b[columns].to(p.compute) * p.lora_scale], 1)
        z = buffer[:, : weight.shape[0]]
        _affine(z, x, weight, None if bias is None else bias[columns])
        before, part = stats, kernels.softmax_stats(z, p.rows, start)
        stats = merge(torch.stack([before, part]))
        if not p.needs:
            continue
        if smooth is not None:
            flat = z.clone()
            kernels.gradient_(flat, stats, _with(p.rows, TOTAL=0, HARD=0, SMOOTH=-1), start)
            _add_product(smooth, flat, weight)
        others.mul_(_relative(before[Stat.MAX], stats).unsqueeze(1))
        e_target = _relative(part[Stat.TARGET], stats)
        kernels.gradient_(z, _with_sum_one(stats), _with(p.rows, TOTAL=1, HARD=e_target, SMOOTH=0), start)
        _add_product(others, z, weight)
        at = p.rows.label - start
        inside = ((at >= 0) & (at < weight.shape[0])).unsqueeze(1)
        of_target = torch.where(inside, weight[at.clamp(0, weight.shape[0] - 1)], of_target)
    local, stats = stats, stats if p.shard is None else p.shard.merge(stats)
    out = Solution(stats, {})
    if p.needs:
        others.mul_(_relative(local[Stat.MAX], stats).unsqueeze(1))
        into = _Sums(p, out, is_final=True)
        gradient = _put_together(p.rows, stats, others, of_target, smooth)
        into.sums = {"x": gradient[:, : p.x.shape[1]], "low": gradient[:, p.x.shape[1] :]}
        into.finish()
    return out


def _put_together(rows: Rows, stats: Tensor, others: Tensor, of_target: Tensor, smooth: Tensor | None) -> Tensor:
    formula, coefficients = rows.formula, rows.coefficients
    share = slope_of_softmax(stats, rows)
    p_target = _relative(stats[Stat.TARGET], stats) / stats[Stat.SUM]
    slope = (
        formula.scale if formula.softcap is None else formula.scale * (1 - (stats[Stat.TARGET] / formula.softcap) ** 2)
    )
    target = (share * p_target - coefficients[Coefficient.HARD]) * slope
    gradient = others.mul_((share / stats[Stat.SUM]).unsqueeze(1)).add_(of_target * target.unsqueeze(1))
    if smooth is not None:
        gradient.sub_(smooth * coefficients[Coefficient.SMOOTH].unsqueeze(1))
    return gradient.masked_fill_((rows.label < 0).unsqueeze(1), 0)


def _relative(logits: Tensor, stats: Tensor) -> Tensor:
    """exp(logits - max), where a maximum of -inf (nothing seen yet) counts as 0."""
    return (logits - torch.where(stats[Stat.MAX] == -torch.inf, 0, stats[Stat.MAX])).exp()


def _with(rows: Rows, **values: Tensor | float) -> Rows:
    """The same rows with other coefficients, zero where none is given."""
    coefficients = torch.zeros_like(rows.coefficients)
    for name, value in values.items():
        coefficients[Coefficient[name]] = value
    formula = replace(rows.formula, z_loss=0.0)  # not by the coefficient: 0 * inf
    return Rows(rows.label, coefficients, rows.class_weight, formula)


def _with_sum_one(stats: Tensor) -> Tensor:
    relative = stats.clone()
    relative[Stat.SUM] = 1
    return relative


class _Head:
    """Bias and LoRA of a head in the precision of the products, cast once for all pieces."""

    def __init__(self, p: Problem):
        self.bias = None if p.bias is None else p.bias.to(p.compute)
        self.lora_b = None if p.lora_b is None else p.lora_b.to(p.compute)
        self.lora_scale = p.lora_scale

    def logits(self, out: Tensor, x: Tensor, low: Tensor | None, weight: Tensor, columns: slice) -> Tensor:
        _affine(out, x, weight, None if self.bias is None else self.bias[columns])
        return out if low is None else out.addmm_(low, self.lora_b[columns].t(), alpha=self.lora_scale)


def _affine(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


class _Sums:
    """Gradients while they grow. `z` is the gradient of a piece of the logits; nothing is kept for what needs no gradient."""

    def __init__(self, p: Problem, out: Solution, is_final: bool):
        """`is_final`: each part of the head's gradient is made by one product, so that it can be rounded at once."""
        self.p, self.gradients, self.is_first = p, out.gradients, True
        self.sums: dict[str, Tensor] = {}
        of = {name: getattr(p, name) for name in GRADIENTS if name in p.needs}
        for name, tensor in of.items():
            dtype = gradient_dtype(tensor.dtype)
            if name in HEAD and not is_final:
                dtype = p.accumulate_dtype or p.precision
            make = torch.empty if name in HEAD or p.kept is None else torch.zeros
            self.gradients[name] = make(tensor.shape, dtype=dtype, device=p.x.device)

    def add_rows(self, piece: slice, z: Tensor, x: Tensor, low: Tensor | None, weight: Tensor) -> None:
        """A chunk: all classes of some rows. What is to be summed over processes travels while the head's gradient is made."""
        parts = {"x": (weight, 1.0), "low": (self.p.lora_b, self.p.lora_scale)}
        made = {name: self._part_of_input(name, piece, z, *parts[name]) for name in parts if name in self.p.needs}
        travelling = [self.p.shard.start_sum(part) for part in made.values()] if self.p.shard else []
        self._add_head(self.gradients, z, x, low)
        self.is_first = False
        for sum_ in travelling:
            sum_.wait()
        for name, part in made.items():
            self._place(name, piece, part)

    def add_columns(self, columns: slice, z: Tensor, x: Tensor, low: Tensor | None, weight: Tensor) -> None:
        """A slice: some classes of all rows. Its part of the head's gradient is final."""
        self._add_input("x", x, z, weight, 1.0)
        if "low" in self.p.needs:
            self._add_input("low", low, z, self.p.lora_b[columns].to(z.dtype), self.p.lora_scale)
        self._add_head({name: self.gradients[name][columns] for name in HEAD if name in self.p.needs}, z, x, low)

    def finish(self) -> None:
        """Put what was summed over slices in its place; without a single piece, all gradients are zero."""
        for name, total in self.sums.items():
            if name not in self.p.needs:
                continue
            if self.p.shard is not None:
                total = total.contiguous()  # LoRA's part of a streamed gradient is columns of it
                self.p.shard.start_sum(total).wait()
            self._place(name, slice(0, self.p.num_rows), total)
        if not self.p.num_rows or not self.p.weight.shape[0]:
            for gradient in self.gradients.values():
                gradient.zero_()

    def _add_head(self, gradients: dict[str, Tensor], z: Tensor, x: Tensor, low: Tensor | None) -> None:
        if "weight" in gradients:
            _add_product(gradients["weight"], z.t(), x, is_first=self.is_first)
        if "lora_b" in gradients:
            _add_product(gradients["lora_b"], z.t(), low, is_first=self.is_first, alpha=self.p.lora_scale)
        if "bias" in gradients:
            total = z.sum(0, dtype=self.p.precision)
            gradients["bias"].copy_(total if self.is_first else total.add_(gradients["bias"]))

    def _add_input(self, name: str, like: Tensor, z: Tensor, factor: Tensor, alpha: float) -> None:
        if name in self.p.needs:
            is_first = name not in self.sums
            total = self.sums.setdefault(name, torch.empty_like(like, dtype=self.p.precision))
            _add_product(total, z, factor, is_first=is_first, alpha=alpha)

    def _part_of_input(self, name: str, piece: slice, z: Tensor, factor: Tensor, alpha: float) -> Tensor:
        whole = self.gradients[name]
        part = whole[piece] if self.p.kept is None else whole.new_empty(z.shape[0], whole.shape[1])
        _add_product(part, z, factor.to(z.dtype), is_first=True, alpha=alpha)
        return part

    def _place(self, name: str, piece: slice, part: Tensor) -> None:
        """Rows that do not count keep a gradient of zero."""
        whole = self.gradients[name]
        if self.p.kept is not None:
            whole.index_copy_(0, self.p.kept[piece], part.to(whole.dtype))
        elif part.data_ptr() != whole[piece].data_ptr():
            whole[piece] = part


def _add_product(total: Tensor, left: Tensor, right: Tensor, is_first: bool = False, alpha: float = 1.0) -> None:
    """total (+)= alpha * left @ right, without rounding a running sum to the precision of the factors."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=0 if is_first else 1, alpha=alpha, out=total)
    elif total.is_cuda and total.dtype == torch.float32 and torch.cuda.get_device_capability(total.device) >= (8, 0):
        torch.addmm(total, left, right, out_dtype=total.dtype, beta=0 if is_first else 1, alpha=alpha, out=total)
    else:
        product = torch.mm(left, right)
        product = product if alpha == 1 else product.mul_(alpha)
        total.copy_(product) if is_first else total.add_(product)


def _buffer(p: Problem, num_rows: int, columns: int) -> Tensor:
    """Memory for logits whose rows all begin at a multiple of 64 numbers, whatever the vocabulary: wide loads need that."""
    return p.x.new_empty(num_rows, -(-columns // 64) * 64, dtype=p.compute)


def _no_stats(p: Problem) -> Tensor:
    return neutral_stats(p.num_rows, p.precision, p.x.device)


METHODS = {"chunk": _chunk, "recompute": _recompute, "stream": _stream}
