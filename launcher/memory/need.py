"""What a rank needs altogether under a strategy: the exact part, the estimates, and an allowance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from launcher import parts
from launcher.memory import flat, shares, work, zero3
from launcher.memory.cards import GIB
from launcher.memory.shares import Setting, Share
from launcher.memory.work import Work
from launcher.memory.zero_choices import HALF, Choices
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.recipe import Recipe

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Not measured: the CUDA context, workspaces of cuBLAS and SDPA, memory that lies in too small pieces; and NCCL's buffers.
CONTEXT_BYTES, NCCL_BYTES = GIB, GIB


@dataclass(frozen=True)
class Need:
    """Bytes of the rank that needs most. `work` is None where the model's layers are not known.

    `loads_on_device`: of a model that is loaded whole before it is sharded. `loads_on_host`: the same in the node's memory.
    """

    share: Share
    work: Work | None
    overhead: int
    loads_on_device: int
    loads_on_host: int

    @property
    def total(self) -> int | None:
        """The most at once: while it loads, in the forward and backward pass, or in the step of the optimizer."""
        return max(self._moments.values()) if self.work is not None else None

    @property
    def moment(self) -> str:
        """When it needs most."""
        return max(self._moments, key=lambda name: self._moments[name])

    @property
    def _moments(self) -> dict[str, int]:
        assert self.work is not None
        held = self.share.held + self.overhead
        passing = held + self.work.kept + self.share.exchange
        return {
            "while the loss has its gradient": passing + self.work.loss,
            "while the last layer has its gradients": passing + self.work.recomputed,
            "while the optimizer steps": held + self.share.update,
            "while the model is loaded": self.overhead + self.loads_on_device,
        }


def of(
    notes: Notes, recipe: Recipe, facts: ModelFacts, strategy: str, deepspeed: Mapping[str, Any] | None
) -> Need | None:
    """From what `notes` knows of batch and precision. None where the shapes of the weights are not known."""
    if not facts.weights:
        return None
    choices = None if deepspeed is None else Choices.of(deepspeed)
    setting = _setting(notes, recipe, facts, choices)
    on_gpu, many = notes["device"] != "cpu", notes["world_size"] > 1
    whole = sum(setting.bytes_of(weight) for weight in facts.weights)
    reads_on_device = on_gpu and notes["method"] == "qlora"  # each weight is quantised there as it is read
    readers = 1 if strategy == "zero3" else notes["processes_per_node"]  # under zero3 rank zero reads for all
    return Need(
        share=_with_average(_share(setting, choices), setting, recipe),
        work=work.of(notes, recipe, facts),
        overhead=(CONTEXT_BYTES + many * NCCL_BYTES) * on_gpu,
        loads_on_device=whole if reads_on_device else 0,
        loads_on_host=0 if reads_on_device else whole * readers,
    )


def _with_average(share: Share, setting: Setting, recipe: Recipe) -> Share:
    """Every rank keeps the whole average of what is trained, in fp32."""
    if recipe.regularization.ema is None:
        return share
    average = BYTES["fp32"] * sum(weight.numel for weight in setting.trained)
    return replace(share, optimizer=share.optimizer + average)


def _share(setting: Setting, choices: Choices | None) -> Share:
    if choices is None:
        return shares.replicated(setting)
    return zero3.share(setting, choices) if choices.stage == 3 else flat.share(setting, choices)


def _setting(notes: Notes, recipe: Recipe, facts: ModelFacts, choices: Choices | None) -> Setting:
    """What is trained by an adapter is fp32; with bf16 enabled DeepSpeed converts the whole model."""
    frozen = BYTES[notes["model_dtype"]]
    trained = frozen if notes["method"] == "full" else BYTES["fp32"]
    if choices is not None and choices.bf16:
        frozen = trained = HALF
    return Setting(
        weights=facts.weights,
        frozen_item=frozen,
        trained_item=trained,
        world_size=notes["world_size"],
        accumulates=notes["gradient_accumulation_steps"] > 1,
        state_bytes=partial(parts.load("optimizers", recipe.optimizer.name).state_bytes, recipe.optimizer),
    )
