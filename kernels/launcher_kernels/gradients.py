"""Gradients of a loss while they grow, piece by piece of the logits."""

import torch
from torch import Tensor

from launcher_kernels.problem import HEAD, INPUTS, Problem, gradient_dtype


class Gradients:
    """`by_name` has the shapes of INPUTS. `z` is the gradient of a piece of the logits; what needs no gradient takes no memory."""

    def __init__(self, p: Problem, is_final: bool):
        """`is_final`: each part of the head's gradient is made by one product, so that it can be rounded at once."""
        self.p, self.is_first = p, True
        self.by_name: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        of = {name: getattr(p, name) for name in INPUTS if name in p.needs}
        for name, tensor in of.items():
            dtype = gradient_dtype(tensor.dtype)
            if name in HEAD and not is_final:
                dtype = p.accumulate_dtype or p.precision
            make = torch.empty if name in HEAD or p.kept is None else torch.zeros
            self.by_name[name] = make(tensor.shape, dtype=dtype, device=p.x.device)

    def add_rows(self, piece: slice, z: Tensor, x: Tensor, low: Tensor | None, weight: Tensor) -> None:
        """A chunk: all classes of some rows. What is to be summed over processes travels while the head's gradient is made."""
        parts = {"x": (weight, 1.0), "low": (self.p.lora_b, self.p.lora_scale)}
        made = {name: self._part_of_input(name, piece, z, *parts[name]) for name in parts if name in self.p.needs}
        travelling = [self.p.shard.start_sum(part) for part in made.values()] if self.p.shard else []
        self._add_head(self.by_name, z, x, low)
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
        self._add_head({name: self.by_name[name][columns] for name in HEAD if name in self.p.needs}, z, x, low)

    def finish(self) -> dict[str, Tensor]:
        """The gradients: what was summed over slices is put in its place; without a single piece, all are zero."""
        for name, total in self.sums.items():
            if name not in self.p.needs:
                continue
            if self.p.shard is not None:
                total = total.contiguous()  # LoRA's part of a streamed gradient is columns of it
                self.p.shard.start_sum(total).wait()
            self._place(name, slice(0, self.p.num_rows), total)
        if not self.p.num_rows:
            for gradient in self.by_name.values():
                gradient.zero_()
        return self.by_name

    def _add_head(self, gradients: dict[str, Tensor], z: Tensor, x: Tensor, low: Tensor | None) -> None:
        if "weight" in gradients:
            add_product(gradients["weight"], z.t(), x, is_first=self.is_first)
        if "lora_b" in gradients:
            add_product(gradients["lora_b"], z.t(), low, is_first=self.is_first, alpha=self.p.lora_scale)
        if "bias" in gradients:
            total = z.sum(0, dtype=self.p.precision)
            gradients["bias"].copy_(total if self.is_first else total.add_(gradients["bias"]))

    def _add_input(self, name: str, like: Tensor, z: Tensor, factor: Tensor, alpha: float) -> None:
        if name in self.p.needs:
            is_first = name not in self.sums
            if is_first:
                self.sums[name] = torch.empty_like(like, dtype=self.p.precision)
            add_product(self.sums[name], z, factor, is_first=is_first, alpha=alpha)

    def _part_of_input(self, name: str, piece: slice, z: Tensor, factor: Tensor, alpha: float) -> Tensor:
        whole = self.by_name[name]
        part = whole[piece] if self.p.kept is None else whole.new_empty(z.shape[0], whole.shape[1])
        add_product(part, z, factor.to(z.dtype), is_first=True, alpha=alpha)
        return part

    def _place(self, name: str, piece: slice, part: Tensor) -> None:
        """Rows that do not count keep a gradient of zero."""
        whole = self.by_name[name]
        if self.p.kept is not None:
            whole.index_copy_(0, self.p.kept[piece], part.to(whole.dtype))
        elif part.data_ptr() != whole[piece].data_ptr():
            whole[piece] = part


def add_product(total: Tensor, left: Tensor, right: Tensor, is_first: bool = False, alpha: float = 1.0) -> None:
    """total (+)= alpha * left @ right, without rounding a running sum to the precision of the factors."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=0 if is_first else 1, alpha=alpha, out=total)
    elif total.is_cuda and total.dtype == torch.float32 and torch.cuda.get_device_capability(total.device) >= (8, 0):
        torch.addmm(total, left, right, out_dtype=total.dtype, beta=0 if is_first else 1, alpha=alpha, out=total)
    else:
        product = torch.mm(left, right)
        product = product if alpha == 1 else product.mul_(alpha)
        total.copy_(product) if is_first else total.add_(product)
