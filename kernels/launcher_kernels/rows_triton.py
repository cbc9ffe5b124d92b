"""Rows of logits in Triton: one program a row, no atomics, arithmetic in fp32 (fp64 for fp64), one rounding at the end.

Rows of up to `ONE_BLOCK` columns are read once and stay in registers; longer ones are read twice, the second time out of the
L2 cache where the rows in flight fit into it. Also runs in Triton's interpreter (TRITON_INTERPRET=1), which is why there is no
libdevice here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from launcher_kernels.formula import Coefficient, Rows, Stat, stats_of_no_class

ONE_BLOCK = 32768  # of 65,536 logits some do not fit into the registers of a multiprocessor
LOOP_BLOCK = 16384  # its registers leave room for one row a multiprocessor, so that rows of 131,072 classes fit into the L2 cache
INTERPRETED = triton.knobs.runtime.interpret

MAX, SUM, TARGET = (tl.constexpr(int(name)) for name in (Stat.MAX, Stat.SUM, Stat.TARGET))
WEIGHTED, ENERGY, ARGMAX = (tl.constexpr(int(name)) for name in (Stat.WEIGHTED, Stat.ENERGY, Stat.ARGMAX))
TOTAL, HARD = tl.constexpr(int(Coefficient.TOTAL)), tl.constexpr(int(Coefficient.HARD))
NUM_STATS = tl.constexpr(len(Stat))
SMOOTH, SQUARE = tl.constexpr(int(Coefficient.SMOOTH)), tl.constexpr(int(Coefficient.SQUARE))


def softmax_stats(z: Tensor, rows: Rows, start: int = 0) -> Tensor:
    """Stats (len(Stat), N) of logits (N, columns), which are left as they are."""
    stats = _empty_stats(z)
    if not z.shape[1]:
        return stats_of_no_class(z.shape[0], stats.dtype, z.device)
    _launch(z, z, stats, rows, start, takes_stats=True, takes_gradient=False)
    return stats


def gradient_(z: Tensor, stats: Tensor, rows: Rows, start: int = 0, out: Tensor | None = None) -> None:
    """The gradient of the summed loss with respect to the logits, in their place or in `out`."""
    _launch(z, z if out is None else out, stats, rows, start, takes_stats=False, takes_gradient=True)


def stats_and_gradient_(z: Tensor, rows: Rows, out: Tensor | None = None) -> Tensor:
    """Both of the above in one launch, for whole rows."""
    stats = _empty_stats(z)
    _launch(z, z if out is None else out, stats, rows, 0, takes_stats=True, takes_gradient=True)
    return stats


def launch_shape(columns: int) -> tuple[int, bool, int]:
    """Columns at a time, whether that is all of them, and warps. By the shape alone: tuning by trial would overwrite logits."""
    is_one_block = columns <= ONE_BLOCK
    block = triton.next_power_of_2(columns) if is_one_block else LOOP_BLOCK
    return block, is_one_block, max(4, min(32, block // 1024))


def _launch(
    z: Tensor, out: Tensor, stats: Tensor, rows: Rows, start: int, takes_stats: bool, takes_gradient: bool
) -> None:
    num_rows, columns = z.shape
    if not num_rows or not columns:
        return
    assert columns == 1 or z.stride(1) == out.stride(1) == 1
    formula = rows.formula
    block, is_one_block, num_warps = launch_shape(columns)
    with torch.cuda.device_of(z):
        softmax_rows[(num_rows,)](
            z,
            z.stride(0),
            out,
            out.stride(0),
            rows.label,
            rows.coefficients,
            rows.coefficients.stride(0),
            rows.class_weight,
            stats,
            stats.stride(0),
            columns,
            start,
            SOFTCAP=formula.softcap,
            SCALE=formula.scale,
            SMOOTHS=formula.label_smoothing > 0,
            SQUARES=formula.z_loss > 0,
            WANTS_ARGMAX=formula.wants_argmax,
            WANTS_ENTROPY=formula.wants_entropy,
            TAKES_STATS=takes_stats,
            TAKES_GRADIENT=takes_gradient,
            PRECISION=tl.float64 if stats.dtype == torch.float64 else tl.float32,
            BLOCK=block,
            IS_ONE_BLOCK=is_one_block,
            ROUNDS_BY_HAND=INTERPRETED and z.dtype == torch.bfloat16,
            num_warps=num_warps,
        )


# Numbers that change with every batch: specialised, they would have the kernel compiled again in the middle of a training.
@triton.jit(do_not_specialize=["coefficient_stride", "stat_stride", "start"])
def softmax_rows(
    z,
    z_stride,
    out,
    out_stride,
    label_of,
    coefficients,
    coefficient_stride,
    class_weight,
    stats,
    stat_stride,
    columns,
    start,
    SOFTCAP: tl.constexpr,
    SCALE: tl.constexpr,
    SMOOTHS: tl.constexpr,
    SQUARES: tl.constexpr,
    WANTS_ARGMAX: tl.constexpr,
    WANTS_ENTROPY: tl.constexpr,
    TAKES_STATS: tl.constexpr,
    TAKES_GRADIENT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_ONE_BLOCK: tl.constexpr,
    ROUNDS_BY_HAND: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # row * stride exceeds 2^31 with 16,384 rows of 131,072 logits
    z += row * z_stride
    out += row * out_stride
    stats += row
    label = tl.load(label_of + row)
    target = label - start
    lanes = tl.arange(0, BLOCK)
    if label < 0:  # ignored: neutral stats, no gradient; written, since whoever sums them cannot know
        if TAKES_STATS:
            for name in tl.static_range(NUM_STATS):
                tl.store(stats + name * stat_stride, 1.0 if name == SUM else 0.0)
        if TAKES_GRADIENT:
            for first in range(0, columns, BLOCK):
                at = first + lanes
                tl.store(out + at, tl.zeros([BLOCK], PRECISION).to(out.dtype.element_ty), mask=at < columns)
    else:
        if TAKES_STATS:
            largest = tl.full([], float("-inf"), PRECISION)
            total = tl.full([], 0.0, PRECISION)
            weighted = tl.full([], 0.0, PRECISION)
            energy = tl.full([], 0.0, PRECISION)
            best = tl.full([], 0, tl.int32)
            # Before the first reduction, at which all warps wait: later, a warp that is ahead may have put the gradient there.
            has_target = (target >= 0) & (target < columns)
            of_target = _logits(z, tl.where(has_target, target, 0), columns, SOFTCAP, SCALE, PRECISION, "")
            if IS_ONE_BLOCK:
                value = _logits(z, lanes, columns, SOFTCAP, SCALE, PRECISION, "evict_first")
            for first in range(0, columns, BLOCK):
                at = first + lanes
                if not IS_ONE_BLOCK:
                    value = _logits(z, at, columns, SOFTCAP, SCALE, PRECISION, "evict_last")
                here = tl.max(value, 0)
                if WANTS_ARGMAX:
                    best = tl.where(here > largest, first + tl.argmax(value, 0, tie_break_left=True), best)
                new = tl.maximum(largest, here)
                finite = tl.where(new == float("-inf"), 0.0, new)
                e = tl.exp(value - finite)
                shrink = tl.exp(largest - finite)
                total = total * shrink + tl.sum(e, 0)
                if WANTS_ENTROPY:
                    energy = energy * shrink + tl.sum(e * tl.where(e > 0, value, 0.0), 0)
                if SMOOTHS:
                    share = _class_weight(class_weight, start + at, at < columns, PRECISION)
                    weighted += tl.sum(share * tl.where(at < columns, value, 0.0), 0)
                largest = new
            tl.store(stats + MAX * stat_stride, largest)
            tl.store(stats + SUM * stat_stride, total)
            tl.store(stats + TARGET * stat_stride, tl.where(has_target, of_target, 0.0))
            tl.store(stats + WEIGHTED * stat_stride, weighted)
            tl.store(stats + ENERGY * stat_stride, energy)
            tl.store(stats + ARGMAX * stat_stride, (best + start).to(PRECISION))
        else:
            largest = tl.load(stats + MAX * stat_stride)
            total = tl.load(stats + SUM * stat_stride)
        if TAKES_GRADIENT:
            coefficients += row
            hard = tl.load(coefficients + HARD * coefficient_stride)
            smooth = tl.load(coefficients + SMOOTH * coefficient_stride)
            slope = tl.load(coefficients + TOTAL * coefficient_stride)
            if SQUARES:
                slope += 2 * tl.load(coefficients + SQUARE * coefficient_stride) * (largest + tl.log(total))
            finite = tl.where(largest == float("-inf"), 0.0, largest)
            if IS_ONE_BLOCK and not TAKES_STATS:
                value = _logits(z, lanes, columns, SOFTCAP, SCALE, PRECISION, "evict_first")
            for first in range(0, columns, BLOCK):
                at = first + lanes
                if not IS_ONE_BLOCK:
                    value = _logits(z, at, columns, SOFTCAP, SCALE, PRECISION, "evict_first")
                gradient = slope * (tl.exp(value - finite) / total)
                if SMOOTHS:
                    gradient -= smooth * _class_weight(class_weight, start + at, at < columns, PRECISION)
                gradient -= tl.where(at == target, hard, 0.0)
                if SOFTCAP is not None:
                    capped = value / SOFTCAP
                    gradient *= 1 - capped * capped
                rounded = _rounded(gradient * SCALE, out.dtype.element_ty, ROUNDS_BY_HAND)
                tl.store(out + at, rounded, mask=at < columns)


@triton.jit
def _logits(z, at, columns, SOFTCAP: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr, POLICY: tl.constexpr):
    """Scaled and capped logits, -inf beyond the last column: masked after the cap, which would make a number of it."""
    value = tl.load(z + at, mask=at < columns, other=0.0, eviction_policy=POLICY).to(PRECISION) * SCALE
    if SOFTCAP is not None:
        value = _tanh(value / SOFTCAP, PRECISION) * SOFTCAP
    return tl.where(at < columns, value, float("-inf"))


@triton.jit
def _class_weight(class_weight, at, mask, PRECISION: tl.constexpr):
    if class_weight is None:
        return tl.where(mask, 1.0, 0.0).to(PRECISION)
    else:
        return tl.load(class_weight + at, mask=mask, other=0.0).to(PRECISION)


@triton.jit
def _tanh(x, PRECISION: tl.constexpr):
    """By exp; near zero, where that loses digits of fp32, by the Taylor series to x^9."""
    shrunk = tl.exp(-2 * tl.abs(x))
    far = tl.where(x < 0, -1.0, 1.0) * (1 - shrunk) / (1 + shrunk)
    if PRECISION == tl.float32:  # noqa: SIM300 (no constant on the left: an argument)
        s = x * x
        near = x * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
        return tl.where(s < 0.0625, near, far)
    else:
        return far


@triton.jit
def _rounded(value, DTYPE: tl.constexpr, BY_HAND: tl.constexpr):
    """To the nearest, ties to even. The interpreter cuts bf16 off instead, so that it needs help."""
    if BY_HAND:
        bits = value.to(tl.uint32, bitcast=True)
        bits += ((bits >> 16) & 1) + 0x7FFF
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(DTYPE)


def _empty_stats(z: Tensor) -> Tensor:
    return z.new_empty(len(Stat), z.shape[0], dtype=torch.promote_types(z.dtype, torch.float32))
