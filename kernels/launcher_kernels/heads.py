"""Output heads that are not one whole tensor: one that exists by slices only, and one that is spread over processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from launcher_kernels.formula import Stat, merge

_SLICED: "WeakValueDictionary[int, SlicedWeight]" = WeakValueDictionary()
_NUMBERS = count(1)


@dataclass(eq=False, frozen=True)
class SlicedWeight:
    """A frozen weight (V, H) of which only slices are ever whole: quantised, sharded, or kept on another device.

    Attributes:
        shape: (V, H).
        dtype: of the slices.
        read: `read(start, stop)` gives the rows [start, stop) as a tensor (stop - start, H).
        number: stands for this object in the signature of an operator, which knows tensors and numbers only.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    read: Callable[[int, int], Tensor]
    number: int = field(default_factory=lambda: next(_NUMBERS), init=False)
    requires_grad: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _SLICED[self.number] = self

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        part = self.read(start, stop)
        if tuple(part.shape) != (stop - start, self.shape[1]):
            raise ValueError(f"read({start}, {stop}) gave {tuple(part.shape)}, not {(stop - start, self.shape[1])}")
        return part

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy gets a number of its own."""
        return SlicedWeight, (self.shape, self.dtype, self.read)


def sliced(number: int) -> SlicedWeight:
    return _SLICED[number]


@dataclass(frozen=True)
class VocabShard:
    """This process's part of a vocabulary that is spread over a process group, as in Megatron (arXiv:1909.08053, section 3).

    Every process passes the same `x` and `target` (classes of the whole vocabulary) and its own rows of the weight and bias; all
    get the same loss and the whole gradient of `x`. Parts may be of different size but stand in the order of the ranks.

    Attributes:
        group_name: name of the process group.
        start: class of this process's first row.
        total: classes of all parts together.
    """

    group_name: str
    start: int
    total: int

    @classmethod
    def of(cls, weight: Tensor, group: dist.ProcessGroup) -> "VocabShard":
        """Find out `start` and `total` together; a collective that waits for the device, so call it once.

        Raises:
            ValueError: a process has no row at all (on all processes).
        """
        size = torch.tensor([weight.shape[0]], device=weight.device)
        sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size(group))]
        dist.all_gather(sizes, size, group=group)
        numbers = [int(each) for each in sizes]
        if 0 in numbers:
            raise ValueError(f"process {numbers.index(0)} has no part of the vocabulary: use fewer processes for it")
        return cls(group.group_name, sum(numbers[: dist.get_rank(group)]), sum(numbers))

    @property
    def group(self) -> dist.ProcessGroup:
        return dist.distributed_c10d._resolve_process_group(self.group_name)

    @property
    def usual_size(self) -> int:
        """What all processes base their choice of pieces on: they meet once a piece, so that each must have as many."""
        return -(-self.total // dist.get_world_size(self.group))

    def merge(self, stats: Tensor) -> Tensor:
        """Stats over the whole vocabulary from those of each part, by one exchange of len(Stat) numbers a row."""
        parts = stats.new_empty(dist.get_world_size(self.group) * len(Stat), stats.shape[1])
        dist.all_gather_into_tensor(parts, stats.contiguous(), group=self.group)
        return merge(parts.view(-1, *stats.shape))

    def start_sum(self, partial: Tensor) -> dist.Work:
        """Begin to sum a tensor over the parts, in place; wait for what is returned."""
        assert partial.is_contiguous()  # gloo would sum something else
        return dist.all_reduce(partial, group=self.group, async_op=True)
