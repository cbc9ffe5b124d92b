"""How much memory a rank needs, and of what kind: exact where shapes decide it, an estimate where the computation does.

`shares` (none, ddp), `flat` (zero1, zero2) and `zero3` have the exact part, `work` the estimates, `need` the sum, `cards` the
memory of GPUs by name.
"""

from launcher.memory import need, zero_choices
from launcher.memory.need import Need
from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.recipe import Recipe

EXACT = ("weight_bytes_per_rank", "gradient_bytes_per_rank", "optimizer_bytes_per_rank", "communication_bytes_per_rank")
ESTIMATED = ("transient_bytes_per_rank", "activation_bytes_per_rank", "loss_bytes_per_rank")
SUMS = ("overhead_bytes_per_rank", "total_bytes_per_rank", "host_bytes_per_node")
NO_CONFIGURATION = "the model's configuration cannot be read"


def derive(notes: Notes, recipe: Recipe, facts: ModelFacts | None, card_bytes: int | None) -> None:
    """All fields of the plan that are about memory, and what the model's shapes tell besides."""
    notes.put("device_memory_bytes", card_bytes, "the card" if card_bytes is not None else "unknown: no card is named")
    if facts is None:
        notes.put("modules_to_save", tuple(getattr(recipe.adapter, "modules_to_save", ())), NO_CONFIGURATION)
        _unknown(
            notes,
            ("parameters", "trainable_parameters", "parameter_groups", *EXACT, *ESTIMATED, *SUMS),
            NO_CONFIGURATION,
        )
        notes.put("loss", "auto", "chosen when the model is loaded")
        notes.put("model", "unknown", NO_CONFIGURATION)
        return
    notes.put("loss", facts.loss, _loss_reason(notes, facts))
    notes.put("model", facts.architecture, facts.source)
    notes.put("parameters", facts.parameters, "counted on the shapes")
    notes.put("trainable_parameters", facts.trainable, "counted on the shapes")
    notes.put(
        "parameter_groups",
        facts.groups,
        "what the optimizer tells apart",
    )
    _saved(notes, recipe, facts.head)
    made = need.of(notes, recipe, facts, notes["strategy"], notes["deepspeed"])
    if made is None:
        _unknown(notes, (*EXACT, *ESTIMATED, *SUMS), "the shapes of this model")
        return
    _exact(notes, recipe, made)
    _estimates(notes, made)


def _saved(notes: Notes, recipe: Recipe, head: tuple[str, ...]) -> None:
    """What is trained in full beside an adapter."""
    if recipe.method == "full":
        notes.put("modules_to_save", (), "method full trains everything")
        return
    asked = tuple(getattr(recipe.adapter, "modules_to_save", ()))
    more = tuple(name for name in head if name not in asked)
    origin = recipe.origin("adapter.modules_to_save")
    notes.put("modules_to_save", (*asked, *more), f"{origin}, and what is new: {', '.join(more)}" if more else origin)


def _exact(notes: Notes, recipe: Recipe, made: Need) -> None:
    share, origin = made.share, f"computed on the shapes for {notes['strategy']}{_reservation(notes)}"
    copies = " and fp32 copies of what is trained" if notes["deepspeed"] is not None else ""
    notes.put("weight_bytes_per_rank", share.weights, origin)
    notes.put("gradient_bytes_per_rank", share.gradients, origin)
    notes.put("optimizer_bytes_per_rank", share.optimizer, f"{origin}: states of {recipe.optimizer.name}{copies}")
    notes.put("communication_bytes_per_rank", share.communication, origin)


def _estimates(notes: Notes, made: Need) -> None:
    notes.put("transient_bytes_per_rank", made.share.exchange, "estimate: what is gathered and reduced at a time")
    notes.put("overhead_bytes_per_rank", made.overhead, "allowance: CUDA, NCCL and fragments, not measured")
    number, length = notes["per_device_train_batch_size"], notes["max_length"]
    rows = f"{number} x {length} tokens" if length else f"{number} rows"
    if made.work is None:
        _unknown(notes, (*ESTIMATED[1:], "total_bytes_per_rank"), "the layers of this model")
    else:
        activations = made.work.kept + made.work.recomputed
        notes.put("activation_bytes_per_rank", activations, f"estimate for {rows} ({made.work.formula})")
        notes.put("loss_bytes_per_rank", made.work.loss, f"estimate for {rows}, each with a label")
        notes.put("total_bytes_per_rank", made.total, f"estimate: the most at once, {made.moment}")
    offloaded = made.share.host * notes["processes_per_node"]
    if offloaded > made.loads_on_host:
        notes.put("host_bytes_per_node", offloaded, "estimate: what is offloaded")
    else:
        read = "the weights while they are read" if made.loads_on_host else "each weight is quantised as it is read"
        notes.put("host_bytes_per_node", made.loads_on_host, f"estimate: {read}")


def _reservation(notes: Notes) -> str:
    unknown = zero_choices.not_followed(notes["deepspeed"]) if notes["deepspeed"] is not None else []
    return f", without what distributed.deepspeed_config changes by {', '.join(unknown)}" if unknown else ""


def _unknown(notes: Notes, names: tuple[str, ...], why: str) -> None:
    for name in names:
        notes.put(name, None, f"unknown: {why}")


def _loss_reason(notes: Notes, facts: ModelFacts) -> str:
    """Why this loss, and how it goes through the vocabulary when every position has a label."""
    if facts.loss_way is None:
        return facts.loss_reason
    rows = notes["per_device_train_batch_size"] * notes["max_length"]
    way = facts.loss_way(rows, notes["precision"], notes["model_dtype"], notes["device"])
    return f"{facts.loss_reason}; {way}"
