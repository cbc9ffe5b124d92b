"""Muon: momentum made orthogonal, for the matrices inside the model; AdamW for all else (Liu et al., arXiv:2502.16982).

Updates of a matrix (m, n) are scaled by 0.2 sqrt(max(m, n)), section 2.2 there, which gives them AdamW's root mean square: one
learning rate and one decay serve both. PyTorch's own Muon and AdamW, in one optimizer.
"""

from math import prod
from typing import Annotated, Any

from pydantic import Field

from launcher.adam import AdamOptions

ELEMENTWISE = False  # a matrix is made orthogonal as a whole


class Config(AdamOptions):
    name: str = "muon"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Share of the momentum that is kept, along which it looks ahead (Nesterov); betas and eps are for what AdamW trains."""
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Newton-Schulz iterations, in bf16, that make an update orthogonal."""


def build(param_groups: list[dict[str, Any]], config: Config) -> Any:
    import torch

    def muon(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Muon(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            ns_steps=config.ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )

    def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, **config.as_arguments(), fused=True)

    class Both(torch.optim.Optimizer):
        """Each inner optimizer steps its own groups; groups and state are this one's, so it is saved and loaded as any other."""

        def __init__(self) -> None:
            shares = [
                (muon, [g for g in param_groups if g["hidden"]]),
                (adamw, [g for g in param_groups if not g["hidden"]]),
            ]
            self.inner = [make(groups) for make, groups in shares if groups]
            super().__init__([group for each in self.inner for group in each.param_groups], {})

        def step(self, closure: Any = None) -> None:
            assert closure is None, "no optimizer of ours is given one"
            for each in self.inner:  # linked anew, since loading a state makes new objects
                is_muon = isinstance(each, torch.optim.Muon)
                each.param_groups = [group for group in self.param_groups if group["hidden"] == is_muon]
                each.state = self.state
                each.step()

    return Both()


def state_bytes(config: Config, shape: tuple[int, ...], item_bytes: int, hidden: bool) -> int:
    """One momentum of a hidden matrix, two moments of all else; of the parameter's own type."""
    return (1 if hidden else 2) * prod(shape) * item_bytes
