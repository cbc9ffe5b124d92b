"""One loss as the methods see it, and pieces of its logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from launcher_kernels.choice import compute_dtype
from launcher_kernels.formula import Rows
from launcher_kernels.heads import SlicedWeight, VocabShard

INPUTS = ("x", "weight", "bias", "low", "lora_b")  # may have a gradient
HEAD = ("weight", "bias", "lora_b")  # those whose gradient is a sum over rows


@dataclass(frozen=True)
class Problem:
    """Inputs of one loss: logits = x W^T + bias + lora_scale * low B^T, for the rows that count.

    Attributes:
        x: (N, H); `low`: (N, r); `kept`: (N',) the rows that count, None for all of them.
        weight: (V, H); `bias`: (V,); `lora_b`: (V, r), of this process's part of the vocabulary.
        rows: what the N' rows are compared with.
        needs: names of INPUTS.
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


class Logits:
    """Pieces of the logits: bias and LoRA are cast to the precision of the products once for all of them."""

    def __init__(self, p: Problem):
        self.bias = None if p.bias is None else p.bias.to(p.compute)
        self.lora_b = None if p.lora_b is None else p.lora_b.to(p.compute)
        self.lora_scale = p.lora_scale

    def into(self, out: Tensor, x: Tensor, low: Tensor | None, weight: Tensor, columns: slice) -> Tensor:
        affine(out, x, weight, None if self.bias is None else self.bias[columns])
        return out if low is None else out.addmm_(low, self.lora_b[columns].t(), alpha=self.lora_scale)


def affine(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def logits_buffer(p: Problem, num_rows: int, columns: int) -> Tensor:
    """Memory for logits whose rows all begin at a multiple of 64 numbers, whatever the vocabulary: wide loads need that."""
    return p.x.new_empty(num_rows, -(-columns // 64) * 64, dtype=p.compute)


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which a gradient waits for the factor from above: fp16 would lose the small ones before a loss scale can save them."""
    return torch.float32 if dtype == torch.float16 else dtype
