"""What the layers keep for the backward pass: how many of them are recomputed, and how many bytes that takes. Pure: no torch.

The bytes follow Korthikanti et al., arXiv:2205.05198, section 4 (34 x tokens x hidden for a GPT layer in 16 bits), adapted to a
Llama-like decoder (RMSNorm, rotary positions, SwiGLU, grouped queries) as transformers computes it, with SDPA in place of stored
attention scores, and to fp32, autocast and LoRA, each of which keeps other tensors.
"""

from dataclasses import dataclass
from typing import Any

from launcher.errors import RecipeError
from launcher.notes import Notes
from launcher.recipe import Recipe

FP32 = 4
COUNTED = ("llama", "mistral", "qwen2", "qwen3")  # the architectures whose saved tensors a test counts


def derive(notes: Notes, recipe: Recipe, layers: int | None) -> None:
    """Which of the model's `layers` are recomputed (None: unknown, 0: it cannot), and where their inputs wait."""
    training = recipe.training
    interval = training.gradient_checkpointing_interval
    notes.take("gradient_checkpointing", "training.gradient_checkpointing", training.gradient_checkpointing)
    notes.take("activation_offloading", "training.activation_offloading", training.activation_offloading)
    if not training.gradient_checkpointing:
        notes.put("gradient_checkpointing_interval", None, "without gradient_checkpointing")
        return
    notes.take("gradient_checkpointing_interval", "training.gradient_checkpointing_interval", interval)
    if layers == 0:
        raise RecipeError(
            "training.gradient_checkpointing: transformers does not support it for this model",
            where=recipe.origin("training.gradient_checkpointing"),
            fix="set it to false",
        )
    if layers is not None and interval > layers:
        raise RecipeError(
            f"training.gradient_checkpointing_interval: {interval} is more than the {layers} layers of the model",
            where=recipe.origin("training.gradient_checkpointing_interval"),
            fix="set training.gradient_checkpointing=false to recompute none",
        )


@dataclass(frozen=True)
class Decoder:
    """The shape of a Llama-like decoder; `qk_norm`: queries and keys are normed for each head (Qwen3)."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool = False

    @classmethod
    def of(cls, config: Any) -> "Decoder | None":
        """From a configuration of transformers; None where the formula is not known to hold."""
        if config.model_type not in COUNTED:
            return None
        heads, head_dim = config.num_attention_heads, getattr(config, "head_dim", None)
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim or config.hidden_size // heads,
            qk_norm=config.model_type == "qwen3",
        )

    @property
    def linear_weights(self) -> int:
        """Of one layer."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.hidden * self.intermediate


@dataclass(frozen=True)
class Numerics:
    """Bytes of a weight as loaded (and of the residual stream), of a product's operand, and what LoRA adds (rank 0: none)."""

    weight: int
    product: int
    lora_rank: int = 0
    lora_dropout: bool = False
    dropout_mask: int = 1  # bytes an element; 4 on a CPU

    @property
    def casts(self) -> bool:
        """Autocast converts the input of each projection by itself, because what is trained is fp32 and products are not."""
        return self.product != (FP32 if self.lora_rank else self.weight)


def layer_bytes_per_token(shape: Decoder, numerics: Numerics, mask_length: int = 0) -> int:
    """Bytes a token that one layer keeps when it is not recomputed.

    `mask_length`: length of a row where attention has a mask (packing or padding with SDPA): each layer then keeps a mask of its
    own, converted to the products' type, and keys and values are repeated for all heads.
    """
    n, product = numerics, numerics.product
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    separate = n.casts or n.lora_dropout  # the inputs of projections that share one: 5 tensors instead of 2
    norms = 2 * (FP32 * shape.hidden + FP32 + (0 if n.lora_rank else n.weight * shape.hidden))
    if shape.qk_norm:
        width = queries + keys
        norms += FP32 * (width + shape.heads + shape.kv_heads) + (0 if n.lora_rank else product * width)
    attention = product * (2 * queries + 2 * (queries if mask_length else keys) + mask_length) + FP32 * shape.heads
    inputs = product * (5 if separate else 2) * shape.hidden
    mlp = product * 4 * shape.intermediate
    lora = 7 * n.lora_rank * product
    if n.lora_rank and separate:
        lora += product * queries  # the input of the output projection, beside SDPA's own
    if n.lora_dropout:
        lora += n.dropout_mask * (5 * shape.hidden + queries + shape.intermediate)
    return norms + attention + inputs + mlp + lora


def converted_weight_bytes(shape: Decoder, numerics: Numerics) -> int:
    """Bytes that a layer which is not recomputed keeps however many tokens: autocast's copies of the weights that are trained."""
    if not numerics.casts:
        return 0
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    ends = (
        4 * shape.hidden + 2 * queries + 2 * keys + 3 * (shape.hidden + shape.intermediate)
    )  # of the seven projections
    return numerics.product * (numerics.lora_rank * ends if numerics.lora_rank else shape.linear_weights)


def kept_bytes(
    shape: Decoder, numerics: Numerics, tokens: int, interval: int | None, offload: bool = False, mask_length: int = 0
) -> int:
    """Bytes that all layers keep on the device between forward and backward, for one micro-batch of `tokens`, padding included.

    A recomputed layer keeps its input. The embedding, the last norm and the loss come on top.
    """
    recomputed = 0 if interval is None else -(-shape.layers // interval)
    whole = tokens * layer_bytes_per_token(shape, numerics, mask_length) + converted_weight_bytes(shape, numerics)
    inputs = 0 if offload else tokens * numerics.weight * shape.hidden
    return (shape.layers - recomputed) * whole + recomputed * inputs


def peak_bytes(
    shape: Decoder, numerics: Numerics, tokens: int, interval: int | None, offload: bool = False, mask_length: int = 0
) -> int:
    """`kept_bytes`, and one layer's worth where the last layer is recomputed: then nothing has been freed for it yet."""
    last = interval is not None and (shape.layers - 1) % interval == 0
    whole = tokens * layer_bytes_per_token(shape, numerics, mask_length) + converted_weight_bytes(shape, numerics)
    return kept_bytes(shape, numerics, tokens, interval, offload, mask_length) + (whole if last else 0)
