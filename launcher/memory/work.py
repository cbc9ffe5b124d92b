"""What a rank holds only while it computes: activations, and what the loss takes. Estimates, for one micro-batch of full rows.

For the decoders that `activation_memory` knows, layers are reckoned as it says. For others a layer keeps 34 bytes a token and
hidden unit in 16 bits: sixteen numbers and two bytes of dropout masks (Korthikanti et al., arXiv:2205.05198, section 4, without
attention scores, which SDPA does not keep).
"""

from dataclasses import dataclass

from launcher import activation_memory
from launcher.activation_memory import Decoder, Numerics
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.objectives.options import R_DROP_PIECE
from launcher.recipe import Recipe

FP32 = 4
ITEM = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}  # bytes of an operand of a product, or of a weight
NUMBERS, MASK_BYTES = 16, 2  # per token and hidden unit that a layer keeps


@dataclass(frozen=True)
class Work:
    """Bytes. `kept`: activations between the forward and the backward pass. `loss`: all that its gradient takes, beside them.
    `recomputed`: the rest of the layer whose backward pass is first, when that of the loss has ended. `formula`: whose they are.
    """

    kept: int
    loss: int
    recomputed: int
    formula: str


@dataclass(frozen=True)
class Batch:
    """A micro-batch of full rows. `mask_length`: of a row where attention gets a mask, else 0."""

    rows: int
    length: int
    mask_length: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def of(notes: Notes, recipe: Recipe, facts: ModelFacts) -> Work | None:
    """None where the model has no hidden size or number of layers that the launcher could find, or rows are no tokens."""
    if facts.hidden_size is None or facts.num_layers is None or notes["max_length"] is None:
        return None
    rows, length = notes["per_device_train_batch_size"] * facts.loss_passes, notes["max_length"]
    length += getattr(recipe.adapter, "num_virtual_tokens", 0)
    attention = notes["attention"]
    is_masked = "flash" not in attention and (notes["packing"] or rows > 1)
    batch = Batch(rows, length, length if is_masked else 0)
    numerics = _numerics(notes, recipe)
    if facts.decoder is not None:
        (kept, peak), formula = _of_decoder(notes, facts.decoder, numerics, batch), "counted for this architecture"
    else:
        (kept, peak), formula = _of_any(notes, facts, batch), "arXiv:2205.05198"
    scores = _scores(facts, batch, numerics) if attention == "eager" else 0
    outside = scores + _outside(facts, batch, numerics)
    recomputed = peak - kept + _dequantised(facts, numerics)
    return Work(kept + outside, _loss(notes, facts, batch.tokens), recomputed, formula)


def _numerics(notes: Notes, recipe: Recipe) -> Numerics:
    has_lora = notes["method"] != "full"
    return Numerics(
        weight=ITEM[notes["model_dtype"]],
        product=ITEM[notes["precision"]],
        lora_rank=getattr(recipe.adapter, "r", 0) if has_lora else 0,
        lora_dropout=has_lora and getattr(recipe.adapter, "lora_dropout", 0) > 0,
        dropout_mask=FP32 if notes["device"] == "cpu" else 1,
    )


def _of_decoder(notes: Notes, decoder: Decoder, numerics: Numerics, batch: Batch) -> tuple[int, int]:
    """(bytes kept by the layers, and with the one that is recomputed first)."""
    interval = notes["gradient_checkpointing_interval"] if notes["gradient_checkpointing"] else None
    how = decoder, numerics, batch.tokens, interval, notes["activation_offloading"], batch.mask_length
    return activation_memory.kept_bytes(*how), activation_memory.peak_bytes(*how)


def _of_any(notes: Notes, facts: ModelFacts, batch: Batch) -> tuple[int, int]:
    """As `_of_decoder`. Layers that are recomputed keep their input."""
    assert facts.hidden_size is not None and facts.num_layers is not None
    states, item = batch.tokens * facts.hidden_size, ITEM[notes["precision"]]
    layer = states * (NUMBERS * item + MASK_BYTES)
    if not notes["gradient_checkpointing"]:
        return facts.num_layers * layer, facts.num_layers * layer
    recomputed: int = -(-facts.num_layers // notes["gradient_checkpointing_interval"])
    inputs = 0 if notes["activation_offloading"] else recomputed * states * ITEM[notes["model_dtype"]]
    kept = inputs + (facts.num_layers - recomputed) * layer
    return kept, kept + layer


def _scores(facts: ModelFacts, batch: Batch, numerics: Numerics) -> int:
    """Eager attention keeps its scores in fp32 and as a product takes them, in every layer that is not recomputed: all of them."""
    assert facts.num_layers is not None
    heads = facts.decoder.heads if facts.decoder is not None else 0
    return facts.num_layers * batch.tokens * batch.length * heads * (FP32 + numerics.product)


def _outside(facts: ModelFacts, batch: Batch, numerics: Numerics) -> int:
    """The mask that all layers share; the embeddings; the last norm, in fp32, its result, and the gradient of that."""
    assert facts.hidden_size is not None
    states = batch.tokens * facts.hidden_size
    return batch.rows * batch.mask_length**2 + states * (FP32 + 3 * numerics.weight)


def _dequantised(facts: ModelFacts, numerics: Numerics) -> int:
    """The largest quantised weight, in the type of its product."""
    return numerics.product * max((weight.numel for weight in facts.weights if weight.stored), default=0)


def _loss(notes: Notes, facts: ModelFacts, tokens: int) -> int:
    """Fused: what the kernel takes besides, and the gradient of the states. Plain: the logarithms of the probabilities, in fp32,
    with their gradient and that of the logits. Of two passes that are compared: gradients of the logits and of their pieces, and
    nine halves of what is compared at a time, as measured."""
    assert facts.hidden_size is not None
    states = tokens * facts.hidden_size * ITEM[notes["precision"]]
    if facts.loss_way is not None:
        way = facts.loss_way(tokens, notes["precision"], notes["model_dtype"], notes["device"])
        return way.extra_bytes + states
    logits = tokens * (facts.vocabulary or 0)
    if facts.loss_passes > 1:
        return states + FP32 * (2 * logits + 9 * min(logits, facts.loss_passes * R_DROP_PIECE) // 2)
    return states + 3 * FP32 * logits
