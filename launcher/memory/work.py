"""What a rank holds only while it computes: activations, and what the loss takes. Estimates, for one micro-batch of full rows.

A layer of a GPT keeps 34 bytes a token and hidden unit in 16 bits: sixteen numbers and two bytes of dropout masks (Korthikanti et
al., arXiv:2205.05198, section 4, without attention scores, which SDPA does not keep).
"""

from dataclasses import dataclass

from launcher.model_facts import ModelFacts
from launcher.notes import Notes

FP32 = 4
ITEM = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}  # bytes of an operand of a product
NUMBERS, MASK_BYTES = 16, 2  # per token and hidden unit that a layer keeps


@dataclass(frozen=True)
class Work:
    """Bytes. Activations are at their peak in the backward pass of the last layer; the loss has its gradient then."""

    activations: int
    loss: int


def of(notes: Notes, facts: ModelFacts) -> Work | None:
    """None where the model has no hidden size or number of layers that the launcher could find."""
    if facts.hidden_size is None or facts.num_layers is None:
        return None
    tokens = notes["per_device_train_batch_size"] * notes["max_length"]
    item = ITEM[notes["precision"]]
    return Work(_activations(notes, facts, tokens, item), _loss(notes, facts, tokens, item))


def _activations(notes: Notes, facts: ModelFacts, tokens: int, item: int) -> int:
    """Layers that are recomputed keep their input, and one of them at a time the rest."""
    assert facts.hidden_size is not None and facts.num_layers is not None
    states = tokens * facts.hidden_size
    layer = states * (NUMBERS * item + MASK_BYTES)
    outside = states * (FP32 + 2 * item)  # the last norm, and the input of the first layer
    if notes["gradient_checkpointing"]:
        return facts.num_layers * states * item + layer + outside
    return facts.num_layers * layer + outside


def _loss(notes: Notes, facts: ModelFacts, tokens: int, item: int) -> int:
    """Fused: what the kernel takes besides, and the gradient of the states. Plain: logits, the same in fp32, their logarithms
    and the gradients of both."""
    assert facts.hidden_size is not None
    states = tokens * facts.hidden_size * item
    if facts.loss_way is not None:
        way = facts.loss_way(tokens, notes["precision"], notes["model_dtype"], notes["device"])
        return way.extra_bytes + states
    copy = FP32 if item < FP32 else 0
    return states + tokens * (facts.vocabulary or 0) * (2 * item + copy + 2 * FP32)
