"""Whether a plan fits its card, and what would make it fit: found by planning again, from what costs least to what costs most."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from launcher.errors import LauncherError
from launcher.memory.cards import gib
from launcher.plan import Plan

PlanOf = Callable[
    [Sequence[str], int], Plan
]  # from changes of the recipe, as on the command line, and a number of nodes
SHOWN = 3
TIMES = (2, 4, 8, 16)  # as many nodes as the plan has


@dataclass(frozen=True)
class Change:
    """`words`: as they are written on the command line; `cost`: what one gives for it; `nodes`: where they change only these."""

    words: tuple[str, ...]
    cost: str
    nodes: int | None = None

    def __add__(self, other: "Change") -> "Change":
        return Change(self.words + other.words, ", ".join(filter(None, (self.cost, other.cost))))


@dataclass(frozen=True)
class Remedy:
    """A change that makes the plan fit, and what a rank needs then, on its card and of the node's memory for all of its ranks."""

    change: Change
    total_bytes: int
    host_bytes: int

    def __str__(self) -> str:
        host = f" and {gib(self.host_bytes)} GiB of each node's memory" if "offload" in str(self.change.words) else ""
        return f"needs {gib(self.total_bytes)} GiB{host} with {' '.join(self.change.words)}  ({self.change.cost})"


NOTHING = Change((), "")


def verdict(plan: Plan) -> str | None:
    """`fits: 18.3 of 23.5 GiB`, or that it does not; None where memory or card are not known."""
    if plan.total_bytes_per_rank is None or plan.device_memory_bytes is None:
        return None
    needed, there = gib(plan.total_bytes_per_rank), gib(plan.device_memory_bytes)
    host = f"; {gib(plan.host_bytes_per_node or 0)} GiB of each node's memory"
    if plan.fits:
        return f"fits: {needed} of {there} GiB, by estimate{host}"
    return f"does not fit: needs {needed} of {there} GiB ({plan.origins['total_bytes_per_rank']}){host}"


def find(plan: Plan, plan_of: PlanOf) -> tuple[list[Remedy], Remedy | None]:
    """The cheapest changes that make it fit, none of which holds another; and what needs least of all that was tried.

    Where the plan shards, the last is the least number of nodes that would do without a change.
    """
    found: list[Remedy] = []
    least: Remedy | None = None
    for change in _candidates(plan):
        if any(set(remedy.change.words) <= set(change.words) for remedy in found):
            continue
        remedy = _remedy(plan, plan_of, change)
        if remedy is None:
            continue
        least = remedy if least is None or remedy.total_bytes < least.total_bytes else least
        found += [remedy] if _fits(plan, remedy) else []
        if len(found) == SHOWN:
            break
    more = (_remedy(plan, plan_of, change) for change in _more_nodes(plan))
    return [*found, *islice((remedy for remedy in more if remedy and _fits(plan, remedy)), 1)], least


def _fits(plan: Plan, remedy: Remedy) -> bool:
    return plan.device_memory_bytes is not None and remedy.total_bytes <= plan.device_memory_bytes


def _remedy(plan: Plan, plan_of: PlanOf, change: Change) -> Remedy | None:
    """None where the change cannot be made: what a recipe refuses, a remedy does not propose."""
    try:
        made = plan_of(change.words, plan.nodes) if change.nodes is None else plan_of((), change.nodes)
    except LauncherError:
        return None
    if made.total_bytes_per_rank is None:
        return None
    return Remedy(change, made.total_bytes_per_rank, made.host_bytes_per_node or 0)


def _candidates(plan: Plan) -> Iterator[Change]:
    """From cheap to dear: the batch, recomputing, sharding, the node's memory, and in the end another method."""
    smaller = [NOTHING, *_smaller_batch(plan)]
    recompute = [NOTHING, *_more_recomputing(plan)]
    for other, sharding in product(_other_methods(plan), _sharding(plan)):
        for kept, again, rows in product(_smaller_weights(plan, sharding), recompute, smaller):
            change = rows + again + sharding + kept + other
            if change.words:
                yield change


def _more_nodes(plan: Plan) -> list[Change]:
    found = [(times, times * plan.nodes) for times in TIMES if plan.deepspeed is not None]
    return [Change((f"--world {n}x{plan.processes_per_node}",), f"{times} times the GPUs", n) for times, n in found]


def _smaller_batch(plan: Plan) -> list[Change]:
    if plan.per_device_train_batch_size == 1:
        return []
    words = (
        "training.per_device_train_batch_size=1",
        "training.gradient_accumulation_steps=null",
        f"training.global_batch_size={plan.global_batch_size}",
    )
    return [Change(words, "more micro-batches")]


def _more_recomputing(plan: Plan) -> list[Change]:
    if not plan.gradient_checkpointing:
        return [Change(("training.gradient_checkpointing=true",), "a third more time")]
    if plan.gradient_checkpointing_interval != 1:
        return [Change(("training.gradient_checkpointing_interval=1",), "more time")]
    return []


def _smaller_weights(plan: Plan, sharding: Change) -> list[Change]:
    """bf16 loses no small update where ZeRO keeps copies in fp32."""
    is_zero = "zero" in plan.strategy or "zero" in str(sharding.words)
    if plan.method != "full" or plan.model_dtype != "fp32" or not is_zero:
        return [NOTHING]
    return [NOTHING, Change(("model.dtype=bf16",), "weights and activations in bf16, beside fp32 copies")]


def _sharding(plan: Plan) -> list[Change]:
    """What shards more than the plan does, and what moves to the memory of the node."""
    stages = ("none", "ddp", "zero1", "zero2", "zero3")
    more = [name for name in stages[2:] if stages.index(name) > stages.index(plan.strategy) and plan.world_size > 1]
    changes = [NOTHING, *(Change((f"distributed.strategy={name}",), "more communication") for name in more)]
    off = ("distributed.offload_optimizer=cpu",)
    for name, words in (("zero2", off), ("zero3", off), ("zero3", (*off, "distributed.offload_param=cpu"))):
        if stages.index(name) >= stages.index(plan.strategy):
            changes.append(Change((f"distributed.strategy={name}", *words), "waiting for the CPU"))
    return changes


def _other_methods(plan: Plan) -> list[Change]:
    methods = {"full": ("lora", "qlora"), "lora": ("qlora",)}.get(plan.method, ())
    costs = {"lora": "an adapter in place of all weights", "qlora": "an adapter beside weights in 4 bits"}
    return [NOTHING, *(Change((f"method={name}",), costs[name]) for name in methods)]
