"""What models are given."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def in_type_of(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pictures and sounds in the type of the weights, since a convolution in 16 bits takes nothing else."""
    return {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
