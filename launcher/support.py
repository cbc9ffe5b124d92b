"""Which combinations of choices train, which are refused and why, and which need hardware: the one place that decides.

A recipe is refused by the rules that hold anywhere before anything is loaded; a plan also by those for its device. To add a rule,
add a line to `RULES`: the errors, the table in SUPPORT.md and the tests follow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from launcher import parts, prompts
from launcher.schema import Sections

ZERO = ("zero1", "zero2", "zero3")

# The choices whose every combination the table decides.
CHOICES: dict[str, tuple[str, ...]] = {
    "task": ("causal_lm",),
    "method": ("full", "lora", "qlora"),
    "strategy": ("none", "ddp", *ZERO, "fsdp2"),
    "quantization": ("none", "nf4", "fp4", "int8"),
    "packing": ("off", "on"),
    "activation_checkpointing": ("off", "every layer", "every second layer", "offloaded"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
}


@dataclass(frozen=True)
class Combination:
    """The choices of a recipe that can be unsound together.

    `bf16_weights`: the weights that are trained are bf16; `trains_rows`: tokens are added, or named by an adapter.
    """

    task: str = "causal_lm"
    method: str = "lora"
    strategy: str = "none"
    quantization: str = "none"
    packing: str = "off"
    activation_checkpointing: str = "off"
    precision: str = "fp32"
    optimizer: str = "adamw"
    offload_optimizer: str = "none"
    offload_param: str = "none"
    zero_plus_plus: bool = False
    zero_quantized_weights: bool = False
    bf16_weights: bool = False
    trains_rows: bool = False
    dora: bool = False
    l1: bool = False
    group_lasso: bool = False
    ema: bool = False

    def optimizer_fact(self, name: str) -> bool:
        """A constant of the optimizer's file; absent is false."""
        return bool(getattr(parts.load("optimizers", self.optimizer), name, False))

    @classmethod
    def of(cls, recipe: Sections) -> "Combination":
        section = recipe.distributed
        return cls(
            task=recipe.task,
            method=recipe.method,
            strategy=section.strategy,
            quantization=_quantization(recipe),
            packing="on" if recipe.data.packing else "off",
            activation_checkpointing=_activation_checkpointing(recipe),
            precision=recipe.training.precision,
            optimizer=getattr(recipe.optimizer, "name", "adamw"),  # an unknown name leaves a section without one
            offload_optimizer=section.offload_optimizer,
            offload_param=section.offload_param,
            zero_plus_plus=section.zero_quantized_weights or section.zero_quantized_gradients,
            zero_quantized_weights=section.zero_quantized_weights,
            bf16_weights=recipe.method == "full" and recipe.model.dtype == "bf16",
            l1=recipe.regularization.l1 > 0,
            group_lasso=recipe.regularization.group_lasso > 0,
            ema=recipe.regularization.ema is not None,
            dora=getattr(recipe.adapter, "use_dora", False),
            trains_rows=bool(recipe.tokenizer.add_tokens or getattr(recipe.adapter, "trainable_tokens", ())),
        )


def _quantization(recipe: Sections) -> str:
    section = recipe.quantization
    if section is None:
        return "nf4" if recipe.method == "qlora" else "none"
    return section.quant_type or ("int8" if section.bits == 8 else "nf4")


def _activation_checkpointing(recipe: Sections) -> str:
    training = recipe.training
    if not training.gradient_checkpointing:
        return "off"
    if training.activation_offloading:
        return "offloaded"
    return "every layer" if training.gradient_checkpointing_interval == 1 else "every second layer"


@dataclass(frozen=True)
class Rule:
    """A combination for which `applies` holds is refused at `key`; or trains on `hardware` only, where that is named."""

    key: str
    reason: str
    instead: str
    applies: Callable[[Combination], bool]
    hardware: str | None = None


RULES = (
    Rule(
        "method",
        "this task's outputs are no longer where they are looked for once a prompt stands before the inputs",
        "use lora; a prompt is for " + ", ".join(prompts.TASKS["prompt_tuning"]) + ", a prefix for all but the last",
        lambda c: c.task not in prompts.TASKS.get(c.method, (c.task,)),
    ),
    Rule(
        "data.packing",
        "a prompt stands before a sequence, and not before each of the rows that are packed into it",
        "set it to false, or use method: lora",
        lambda c: c.method in prompts.METHODS and c.packing == "on",
    ),
    Rule(
        "training.gradient_checkpointing",
        "a layer that is recomputed has lost the prefix",
        "set it to false, or use method: prompt_tuning",
        lambda c: c.method == "prefix_tuning" and c.activation_checkpointing != "off",
    ),
    Rule(
        "distributed.strategy",
        "PEFT reads embeddings and prompts past ZeRO's sharding of them",
        "use zero2",
        lambda c: c.method in prompts.METHODS and c.strategy == "zero3",
    ),
    Rule(
        "quantization",
        "quantised weights cannot be trained, only an adapter beside them",
        "set method: qlora, or take quantization out",
        lambda c: c.quantization != "none" and c.method != "qlora",
    ),
    Rule(
        "distributed.strategy",
        "8-bit layers hold on to their whole weights, so zero3 would save nothing",
        "use zero2, or quantization.bits: 4",
        lambda c: c.strategy == "zero3" and c.quantization == "int8",
    ),
    Rule(
        "training.precision",
        "TF32 is a way in which NVIDIA GPUs multiply",
        "use auto or fp32",
        lambda c: c.precision == "tf32",
        hardware="GPU",
    ),
    Rule(
        "training.activation_offloading",
        "activations are in CPU memory as they are",
        "set it to false",
        lambda c: c.activation_checkpointing == "offloaded",
        hardware="GPU",
    ),
    Rule(
        "optimizer.name",
        "ZeRO shows an optimizer flattened parts of the weights, and this one needs them whole",
        "use adamw, sgd or lion, or distributed.strategy ddp",
        lambda c: c.strategy in ZERO and not c.optimizer_fact("ELEMENTWISE"),
    ),
    Rule(
        "optimizer.name",
        "ZeRO moves the optimizer's states to the CPU by itself",
        "use adamw with distributed.offload_optimizer: cpu",
        lambda c: c.strategy in ZERO and c.optimizer_fact("NEEDS_GPU"),
    ),
    Rule(
        "optimizer.name",
        "its states are paged by CUDA",
        "use adamw, or adamw_8bit for smaller states",
        lambda c: c.optimizer_fact("NEEDS_GPU"),
        hardware="GPU",
    ),
    Rule(
        "distributed.strategy",
        "PEFT reads single rows of a matrix past ZeRO's sharding of it",
        "use zero2, or take out tokenizer.add_tokens and adapter.trainable_tokens",
        lambda c: c.strategy == "zero3" and c.trains_rows and c.method != "full",
    ),
    Rule(
        "adapter.use_dora",
        "PEFT takes the norms of DoRA's columns past ZeRO's sharding of them",
        "use distributed.strategy zero2, or take it out",
        lambda c: c.strategy == "zero3" and c.dora,
    ),
    Rule(
        "distributed.strategy",
        "fsdp2 shards what zero3 shards, and checkpoints, exports and resuming are proven for zero3 alone",
        "use zero3",
        lambda c: c.strategy == "fsdp2",
    ),
    Rule(
        "distributed.offload_optimizer",
        "only ZeRO keeps the optimizer's states where they can be moved",
        "set distributed.strategy to zero1, zero2 or zero3",
        lambda c: c.offload_optimizer != "none" and c.strategy not in ZERO,
    ),
    Rule(
        "distributed.offload_optimizer",
        "DeepSpeed reads optimizer states from a disk under zero3 alone",
        "use distributed.strategy zero3, or offload_optimizer cpu",
        lambda c: c.offload_optimizer == "nvme" and c.strategy in ("zero1", "zero2"),
    ),
    Rule(
        "distributed.offload_param",
        "weights that are not sharded stay on the device",
        "set distributed.strategy to zero3",
        lambda c: c.offload_param != "none" and c.strategy != "zero3",
    ),
    Rule(
        "distributed.strategy",
        "ZeRO++ quantises what zero3 sends",
        "set distributed.strategy to zero3, or take zero_quantized_weights and zero_quantized_gradients out",
        lambda c: c.zero_plus_plus and c.strategy != "zero3",
    ),
    Rule(
        "distributed.zero_quantized_weights",
        "DeepSpeed sends weights as 8-bit numbers only where nothing is computed under autocast",
        "set method: full and model.dtype: bf16, or training.precision: fp32, or take it out",
        lambda c: c.zero_quantized_weights and c.precision in ("bf16", "fp16") and not c.bf16_weights,
    ),
    Rule(
        "distributed.zero_quantized_weights",
        "ZeRO++ quantises in CUDA kernels",
        "take zero_quantized_weights and zero_quantized_gradients out",
        lambda c: c.zero_plus_plus,
        hardware="GPU",
    ),
    Rule(
        "distributed.offload_optimizer",
        "DeepSpeed reads from NVMe while a GPU computes",
        "use cpu or none",
        lambda c: "nvme" in (c.offload_optimizer, c.offload_param),
        hardware="GPU",
    ),
    Rule(
        "regularization.l1",
        "zero3 has a weight in parts wherever no layer computes with it, so its magnitudes cannot be added up",
        "use distributed.strategy zero2, or optimizer.weight_decay",
        lambda c: c.l1 and c.strategy == "zero3",
    ),
    Rule(
        "regularization.group_lasso",
        "zero3 has a weight in parts wherever no layer computes with it, so its columns have no length",
        "use distributed.strategy zero2, or optimizer.weight_decay",
        lambda c: c.group_lasso and c.strategy == "zero3",
    ),
    Rule(
        "regularization.ema",
        "the average is kept beside whole weights, and under zero3 no rank has them",
        "use distributed.strategy zero2, or take it out",
        lambda c: c.ema and c.strategy == "zero3",
    ),
)


def refusals(combination: Combination) -> Iterator[Rule]:
    """The rules that refuse it on any hardware."""
    return (rule for rule in RULES if rule.hardware is None and rule.applies(combination))


def needs(combination: Combination) -> Iterator[Rule]:
    """The rules that refuse it on a CPU."""
    return (rule for rule in RULES if rule.hardware is not None and rule.applies(combination))
