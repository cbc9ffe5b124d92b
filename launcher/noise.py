"""NEFTune: noise on the embeddings while a model trains (Jain et al., arXiv:2310.05914)."""

import math
from typing import Any

import torch
from torch import Tensor


def on_embeddings(model: Any, alpha: float) -> None:
    """Uniform within alpha / sqrt(tokens * size) on each number of the embeddings (rows, tokens, size), padding included.

    Drawn from the generator that is seeded for each micro-batch, so a resumed run draws the same.
    """
    if not alpha:
        return

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        largest = alpha / math.sqrt(output.shape[-2] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-largest, largest)

    model.get_input_embeddings().register_forward_hook(add)
