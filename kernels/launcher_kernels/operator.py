"""A `torch.library` operator whose functions take their arguments by name: for signatures too long to count along."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Operator:
    """A pure function of tensors and numbers that torch.compile does not look into.

    Args:
        name: `namespace::name`.
        arguments: `type name, type name...` in the language of operator schemas.
        num_results: how many tensors come back.
        evaluate, trace: what it does, and the shapes and types of that (on tensors without data); arguments by name.
        set_up: (ctx, arguments by name, results), keeps in ctx what the backward pass needs.
        backward: (ctx, gradient of the first result) -> gradients by argument name; only the first result is differentiable.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        num_results: int,
        evaluate: Callable[..., tuple[Tensor, ...]],
        trace: Callable[..., tuple[Tensor, ...]],
        set_up: Callable[[Any, dict[str, Any], tuple[Tensor, ...]], None],
        backward: Callable[[Any, Tensor], dict[str, Tensor | None]],
    ):
        self.name = name
        one_line = " ".join(arguments.split())
        self.names = [argument.split()[1] for argument in one_line.split(", ")]
        schema = f"({one_line}) -> ({', '.join(['Tensor'] * num_results)})"

        def by_name(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
            return lambda *values: function(**dict(zip(self.names, values, strict=True)))

        def set_up_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            ctx.set_materialize_grads(False)  # no zeros for the other results, of which some are as large as a weight
            ctx.mark_non_differentiable(*output[1:])
            set_up(ctx, dict(zip(self.names, inputs, strict=True)), output)

        def gradients(ctx: Any, first: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
            if first is None:
                return (None,) * len(self.names)
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # it would silently be that of a constant
                raise RuntimeError(f"{name} has no second derivatives: do not ask for create_graph=True")
            found = backward(ctx, first)
            return tuple(found.get(argument) for argument in self.names)

        self._operator = torch.library.custom_op(name, by_name(evaluate), mutates_args=(), schema=schema)
        self._operator.register_fake(by_name(trace))
        self._operator.register_autograd(gradients, setup_context=set_up_context)

    def __call__(self, **arguments: Any) -> tuple[Tensor, ...]:
        if not torch.compiler.is_compiling():
            self._refuse_forward_mode(arguments)
        return self._operator(*(arguments[name] for name in self.names))

    def _refuse_forward_mode(self, arguments: dict[str, Any]) -> None:
        """Its derivatives would silently be zero."""
        tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
        if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            raise RuntimeError(f"{self.name} has no forward-mode derivatives")

    def wants(self, ctx: Any, argument: str) -> bool:
        """Whether an input needs a gradient, to be asked in `backward`."""
        return bool(ctx.needs_input_grad[self.names.index(argument)])
