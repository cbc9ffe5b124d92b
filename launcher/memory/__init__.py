"""How much memory a rank needs, and of what kind: exact where shapes decide it, an estimate where the computation does.

`shares` (none, ddp) and `zero` have the exact part, `work` the estimates, `cards` the memory of GPUs by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from launcher import parts
from launcher.memory import shares, work, zero
from launcher.memory.cards import GIB
from launcher.memory.shares import Setting, Share
from launcher.memory.zero import ceil
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.recipe import Recipe

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Not measured: the CUDA context, workspaces of cuBLAS and SDPA, memory that lies in too small pieces; and NCCL's buffers.
CONTEXT_BYTES, NCCL_BYTES = GIB, GIB
FIELDS = {  # field of the plan -> what it is, for the line that tells what is largest
    "weight_bytes_per_rank": "weights",
    "gradient_bytes_per_rank": "gradients",
    "optimizer_bytes_per_rank": "optimizer",
    "communication_bytes_per_rank": "buffers of exchange",
    "transient_bytes_per_rank": "weights and gradients in passing",
    "activation_bytes_per_rank": "activations",
    "loss_bytes_per_rank": "loss",
    "overhead_bytes_per_rank": "CUDA",
    "total_bytes_per_rank": "total",
    "host_bytes_per_node": "memory of the node",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that needs most. `loading`: what it takes in the node's memory while it loads the model."""

    share: Share
    work: work.Work
    overhead: int
    loading: int

    @property
    def total(self) -> int:
        """Either the forward and backward pass needs most, or the step of the optimizer."""
        return self.share.held + max(self.work.peak + self.share.exchange, self.share.update) + self.overhead


def measure(
    notes: Notes, recipe: Recipe, facts: ModelFacts, strategy: str, deepspeed: Mapping[str, Any] | None
) -> Memory | None:
    """The memory under a strategy, from what `notes` knows of batch and precision. None where the shapes are not known."""
    working = work.of(notes, recipe, facts)
    if not facts.weights or working is None:
        return None
    setting = _setting(notes, recipe, facts, deepspeed)
    share = shares.replicated(setting) if deepspeed is None else zero.share(setting)
    on_gpu, many = notes["device"] != "cpu", notes["world_size"] > 1
    whole = sum(setting.bytes_of(weight) for weight in facts.weights)
    return Memory(
        share=share,
        work=working,
        overhead=(CONTEXT_BYTES + many * NCCL_BYTES) * on_gpu,
        loading=whole if strategy != "zero3" else ceil(whole, notes["processes_per_node"]),
    )


def derive(notes: Notes, recipe: Recipe, facts: ModelFacts | None, card_bytes: int | None) -> None:
    """All fields of the plan that are about memory, and what the model's shapes tell besides."""
    notes.put("device_memory_bytes", card_bytes, "the card" if card_bytes is not None else "unknown: no card is named")
    if facts is None:
        _unknown(notes, "the model's configuration cannot be read")
        notes.put("loss", "auto", "chosen when the model is loaded")
        notes.put("model", "unknown", "the model's configuration cannot be read")
        for name in ("parameters", "trainable_parameters"):
            notes.put(name, None, "unknown: the model's configuration cannot be read")
        return
    notes.put("loss", facts.loss, _loss_reason(notes, facts))
    notes.put("model", facts.architecture, facts.source)
    notes.put("parameters", facts.parameters, "counted on the shapes")
    notes.put("trainable_parameters", facts.trainable, "counted on the shapes")
    made = measure(notes, recipe, facts, notes["strategy"], notes["deepspeed"])
    if made is None:
        _unknown(notes, "the shape of this model")
    else:
        _put(notes, recipe, made)


def _put(notes: Notes, recipe: Recipe, made: Memory) -> None:
    share, strategy = made.share, notes["strategy"]
    exact = f"computed on the shapes for {strategy}" + _reservation(notes)
    notes.put("weight_bytes_per_rank", share.weights, exact)
    notes.put("gradient_bytes_per_rank", share.gradients, exact)
    copies = " and fp32 copies of what is trained" if notes["deepspeed"] is not None else ""
    notes.put("optimizer_bytes_per_rank", share.optimizer, f"{exact}: states of {recipe.optimizer.name}{copies}")
    notes.put("communication_bytes_per_rank", share.communication, exact)
    notes.put("transient_bytes_per_rank", share.exchange, "estimate: what is gathered and reduced at a time")
    rows = f"{notes['per_device_train_batch_size']} x {notes['max_length']} tokens"
    notes.put(
        "activation_bytes_per_rank", made.work.kept + made.work.recomputed, f"estimate for {rows} ({made.work.formula})"
    )
    notes.put("loss_bytes_per_rank", made.work.loss, f"estimate for {rows}, each with a label")
    notes.put("overhead_bytes_per_rank", made.overhead, "allowance: CUDA, NCCL and fragments, not measured")
    moment = "a layer is recomputed" if made.work.recomputed > made.work.loss else "the loss has its gradient"
    when = (
        "while the optimizer steps" if made.share.update > made.work.peak + made.share.exchange else f"while {moment}"
    )
    notes.put("total_bytes_per_rank", made.total, f"estimate: the most at once, {when}")
    here = notes["processes_per_node"]
    notes.put("host_bytes_per_node", here * max(share.host, made.loading), _host_reason(made, here))


def _host_reason(made: Memory, processes: int) -> str:
    what = "what is offloaded" if made.share.host > made.loading else "the weights while they are loaded"
    return f"estimate: {what}, {processes} processes"


def _reservation(notes: Notes) -> str:
    unknown = zero.not_followed(notes["deepspeed"]) if notes["deepspeed"] is not None else []
    return f", without what distributed.deepspeed_config changes by {', '.join(unknown)}" if unknown else ""


def _unknown(notes: Notes, why: str) -> None:
    for name in FIELDS:
        notes.put(name, None, f"unknown: {why}")


def _setting(notes: Notes, recipe: Recipe, facts: ModelFacts, deepspeed: Mapping[str, Any] | None) -> Setting:
    """What is trained by an adapter is fp32; with bf16 or fp16 enabled DeepSpeed converts the whole model."""
    frozen = BYTES[notes["model_dtype"]]
    trained = frozen if notes["method"] == "full" else BYTES["fp32"]
    if deepspeed is not None and zero.Choices.of(deepspeed).half is not None:
        frozen = trained = zero.HALF
    return Setting(
        weights=facts.weights,
        frozen_item=frozen,
        trained_item=trained,
        world_size=notes["world_size"],
        accumulates=notes["gradient_accumulation_steps"] > 1,
        state_bytes=partial(parts.load("optimizers", recipe.optimizer.name).state_bytes, recipe.optimizer),
        deepspeed=deepspeed,
    )


def _loss_reason(notes: Notes, facts: ModelFacts) -> str:
    """Why this loss, and how it goes through the vocabulary when every position has a label."""
    if facts.loss_way is None:
        return facts.loss_reason
    rows = notes["per_device_train_batch_size"] * notes["max_length"]
    way = facts.loss_way(rows, notes["precision"], notes["model_dtype"], notes["device"])
    return f"{facts.loss_reason}; {way}"
