"""Which of the three ways to go through the vocabulary, how big a piece at a time, and why. Arithmetic only.

chunk      all classes for some rows: 3 matrix products (2 with a frozen head); a trained head needs an fp32 sum of its gradient
recompute  all rows for some classes, twice: 4 products; each slice of the head's gradient is final at once
stream     all rows for some classes, once: 2 products; for a frozen head, which may exist by slices only
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

METHODS = ("auto", "chunk", "recompute", "stream")
GPU_TRAINED_ROWS = 8192  # the sum of dW is read and written once a chunk: 223 / rows of the products' time on an H200
GPU_FROZEN_BYTES = 512 * 2**20
CPU_BYTES, CPU_ROWS = 128 * 2**20, 512  # with fewer rows the products are slow, however large they are
LEAST_ROWS = {"cuda": 1024, "cpu": 64}  # below, a chunk's products wait for the weight
SLICE_BYTES = {"cuda": 256 * 2**20, "cpu": 64 * 2**20}
LEAST_COLUMNS = 256


@dataclass(frozen=True)
class Choice:
    """How a loss will be computed. `rows` or `columns` at a time; `extra_bytes` beyond inputs and returned gradients."""

    method: str
    rows: int
    columns: int
    extra_bytes: int
    reason: str

    def __str__(self) -> str:
        piece = f"{self.columns:,} classes" if self.method != "chunk" else f"{self.rows:,} positions"
        return f"{self.method}, {piece} at a time, {self.extra_bytes / 2**20:,.0f} MiB ({self.reason})"


@dataclass(frozen=True)
class Sizes:
    """What a choice depends on. `dtype` is that of the inputs, `weight_dtype` that of the head and of its gradient."""

    num_rows: int
    hidden: int
    vocabulary: int
    dtype: torch.dtype
    weight_dtype: torch.dtype
    device: str
    trains_weight: bool
    trains_head_otherwise: bool = False  # a bias, or LoRA
    has_only_slices: bool = False
    smooths: bool = False
    drops_rows: bool = False

    @property
    def compute(self) -> torch.dtype:
        return compute_dtype(self.dtype, self.device)

    @property
    def kind(self) -> str:
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def accumulator_bytes(self) -> int:
        """Of an fp32 sum of the head's gradient, where that is not the gradient which is returned."""
        separate = self.trains_weight and self.weight_dtype.itemsize < 4
        return 4 * self.vocabulary * self.hidden if separate else 0

    @property
    def copied_weight_bytes(self) -> int:
        """Of the weight in the precision of the products, which the chunks share."""
        differs = self.weight_dtype != self.compute
        return self.compute.itemsize * self.vocabulary * self.hidden if differs else 0

    def chunk_bytes(self, rows: int) -> int:
        accumulator = 0 if rows >= self.num_rows and self.kind == "cuda" else self.accumulator_bytes
        return rows * self.vocabulary * self.compute.itemsize + accumulator + self.copied_weight_bytes

    def slice_bytes(self, columns: int, method: str) -> int:
        """Logits and cast weights of a slice; a sum and a cast for each row, and under `stream` the weights of its target."""
        smooths = self.smooths and method == "stream"
        per_class = self.num_rows * self.compute.itemsize * (1 + smooths)
        if self.weight_dtype != self.compute or self.has_only_slices:
            per_class += self.hidden * self.compute.itemsize
        copies = (self.drops_rows or self.dtype != self.compute) + 2 * (method == "stream")
        per_row = self.hidden * (max(4, self.dtype.itemsize) * (1 + smooths) + copies * self.compute.itemsize)
        return columns * per_class + self.num_rows * per_row


def compute_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Precision of the products. Without matrix units for it, a CPU multiplies half precision slower than fp32."""
    if device != "cpu" or dtype.itemsize >= 4:
        return dtype
    return dtype if dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported() else torch.float32


def choose(
    num_rows: int,
    hidden: int,
    vocabulary: int,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    trains_weight: bool,
    weight_dtype: torch.dtype | None = None,
    trains_head_otherwise: bool = False,
    has_only_slices: bool = False,
    smooths: bool = False,
    drops_rows: bool = False,
    method: str = "auto",
    memory_budget: int | None = None,
) -> Choice:
    """What `linear_cross_entropy` does.

    Args:
        num_rows: N, rows whose target is not ignored; hidden: H; vocabulary: V.
        dtype: of `x`; weight_dtype: of the weight, None for the same.
        trains_weight: the weight gets a gradient; trains_head_otherwise: a bias or LoRA's B does.
        has_only_slices: the weight is a `SlicedWeight`.
        smooths: there is label smoothing; drops_rows: there are rows beside the N, whose targets are ignored.
        memory_budget: bytes of `extra_bytes`, an estimate of some MiB. It is kept if any way keeps it, else the smallest is taken.

    Raises:
        ValueError: the method is unknown, or impossible for such a head.
    """
    sizes = Sizes(
        num_rows,
        hidden,
        max(1, vocabulary),
        dtype,
        weight_dtype or dtype,
        torch.device(device).type,
        trains_weight,
        trains_head_otherwise,
        has_only_slices,
        smooths,
        drops_rows,
    )
    trains_head = trains_weight or trains_head_otherwise
    check_method(method, trains_head, has_only_slices)
    if method == "chunk":
        return _chunk(sizes, memory_budget, "as asked")
    if method != "auto":
        return _slices(sizes, memory_budget, method, "as asked")
    if has_only_slices:
        return _slices(
            sizes, memory_budget, "recompute" if trains_head else "stream", "the weight exists by slices only"
        )
    beside = "a bias or LoRA on a frozen head" if trains_head_otherwise else "frozen head"
    chunk = _chunk(sizes, memory_budget, "trained head" if trains_weight else beside)
    if memory_budget is None or chunk.extra_bytes <= memory_budget:
        return chunk
    over = f"chunks of {chunk.rows:,} rows would take {chunk.extra_bytes / 2**20:,.0f} MiB"
    slices = _slices(sizes, memory_budget, "recompute" if trains_head else "stream", over)
    return slices if slices.extra_bytes < chunk.extra_bytes else chunk


def check_method(method: str, trains_head: bool, has_only_slices: bool) -> None:
    """Raises ValueError for a method that is unknown, or impossible for such a head."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
    if method == "stream" and trains_head:
        raise ValueError("method 'stream' is for a frozen head: use 'recompute' for a trained one in little memory")
    if method == "chunk" and has_only_slices:
        raise ValueError(
            "method 'chunk' needs the whole weight: use 'stream' or 'recompute' for one that has only slices"
        )


def pieces(total: int, size: int) -> Iterator[slice]:
    """[0, total) in pieces of at most `size`."""
    return (slice(first, min(first + size, total)) for first in range(0, total, max(1, size)))


def _chunk(sizes: Sizes, memory_budget: int | None, reason: str) -> Choice:
    rows = _cpu_rows(sizes) if sizes.kind == "cpu" else _gpu_rows(sizes)
    least = min(LEAST_ROWS[sizes.kind], rows)
    if memory_budget is not None:
        while rows > least and sizes.chunk_bytes(rows) > memory_budget:
            rows = max(least, rows // 2)
    return Choice("chunk", rows, sizes.vocabulary, sizes.chunk_bytes(rows), reason)


def _cpu_rows(sizes: Sizes) -> int:
    return _equal(sizes.num_rows, max(CPU_ROWS, CPU_BYTES // (sizes.compute.itemsize * sizes.vocabulary)), 1)


def _gpu_rows(sizes: Sizes) -> int:
    """One chunk where it saves both time and memory over two with an fp32 sum (N < C + 2 H), else chunks of equal size."""
    if not sizes.trains_weight:
        most = max(LEAST_ROWS["cuda"], GPU_FROZEN_BYTES // (sizes.compute.itemsize * sizes.vocabulary))
    elif sizes.num_rows < GPU_TRAINED_ROWS + 2 * sizes.hidden:
        most = sizes.num_rows
    else:
        most = GPU_TRAINED_ROWS
    return _equal(sizes.num_rows, most, 128)


def _equal(num_rows: int, most: int, multiple: int) -> int:
    """Rows of each of the fewest chunks of at most `most`, up to a multiple."""
    if num_rows <= most:
        return max(1, num_rows)
    each = -(-num_rows // -(-num_rows // most))
    return -(-each // multiple) * multiple


def _slices(sizes: Sizes, memory_budget: int | None, method: str, reason: str) -> Choice:
    fixed = sizes.slice_bytes(0, method)
    per_class = sizes.slice_bytes(1, method) - fixed
    free = SLICE_BYTES[sizes.kind] if memory_budget is None else memory_budget - fixed
    columns = max(LEAST_COLUMNS, free // max(1, per_class) // 128 * 128)
    columns = min(columns, sizes.vocabulary)
    return Choice(method, sizes.num_rows, columns, sizes.slice_bytes(columns, method), reason)
