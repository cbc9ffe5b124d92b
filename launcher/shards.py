"""Parameters that DeepSpeed's ZeRO-3 keeps in parts, made whole while a loss needs them.

By the parameters' own methods, because only the engine may know DeepSpeed. What is whole already is left alone: someone else
made it so and will take it apart.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def full_shape(tensor: Tensor) -> torch.Size:
    """Shape of a tensor that may be kept in parts."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


@contextmanager
def rewritten(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Whole tensors, which every rank gives the same new values; then each rank keeps its part of them again."""
    sharded: list[Any] = [tensor for tensor in {id(t): t for t in tensors}.values() if hasattr(tensor, "ds_id")]
    if sharded:
        sharded[0].all_gather(param_list=sharded)
    yield
    if sharded:
        sharded[0].partition(param_list=sharded, has_been_updated=True)


class Whole:
    """`with Whole(tensors) as whole: loss = f(x, ...)`, then `whole.again(loss, x)` for the backward pass, if there is one."""

    def __init__(self, tensors: Iterable[Tensor]):
        # Each one once, in the order of their numbers: gathering is a collective.
        sharded: dict[int, Any] = {tensor.ds_id: tensor for tensor in tensors if hasattr(tensor, "ds_id")}
        self._sharded = [sharded[number] for number in sorted(sharded)]
        self._gathered: list[Any] = []

    def __enter__(self) -> "Whole":
        self._gathered = [parameter for parameter in self._sharded if parameter.ds_status.name != "AVAILABLE"]
        if self._gathered:
            self._gathered[0].all_gather(param_list=self._gathered)
        return self

    def __exit__(self, *_: object) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            gathered[0].partition(param_list=gathered, has_been_updated=False)

    def again(self, loss: Tensor, x: Tensor) -> None:
        """From when the gradient reaches `loss` until it has reached `x`, which is after it has reached the parameters.

        A parameter in parts cannot take its gradient, and LoRA's A is needed for that of `x`.
        """
        if self._sharded and loss.requires_grad:
            loss.register_hook(self._before_backward)
        if self._sharded and x.requires_grad:
            x.register_hook(self._after_backward)

    def _before_backward(self, gradient: Tensor) -> None:
        self.__enter__()

    def _after_backward(self, gradient: Tensor) -> None:
        self.__exit__()
