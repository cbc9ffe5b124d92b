"""What a rank holds in memory."""

from launcher.model_facts import ModelFacts
from launcher.notes import Notes
from launcher.recipe import Recipe

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def derive(notes: Notes, facts: ModelFacts | None) -> None:
    """Bytes a rank holds whatever the batch: weights, gradients and AdamW's or momentum's state (fp32, unsharded)."""
    if facts is None:
        for name in ("parameters", "trainable_parameters", "weight_bytes_per_rank", "gradient_bytes_per_rank"):
            notes.put(name, None, "unknown: the model's configuration cannot be read")
        notes.put("optimizer_bytes_per_rank", None, "unknown: the model's configuration cannot be read")
        notes.put("loss", "auto", "chosen when the model is loaded")
        notes.put("model", "unknown", "the model's configuration cannot be read")
        return
    size = BYTES[notes["model_dtype"]]
    trained = 4 if notes["method"] != "full" else size
    notes.put("loss", facts.loss, _loss_reason(notes, facts))
    notes.put("model", facts.architecture, facts.source)
    notes.put("parameters", facts.parameters, "counted on the shapes")
    notes.put("trainable_parameters", facts.trainable, "counted on the shapes")
    frozen = facts.parameters - facts.trainable
    notes.put("weight_bytes_per_rank", frozen * size + facts.trainable * trained, "computed: parameters x their bytes")
    notes.put("gradient_bytes_per_rank", facts.trainable * trained, "computed: trainable x their bytes")
    states = _optimizer_states(notes.recipe)
    notes.put(
        "optimizer_bytes_per_rank", facts.trainable * trained * states, f"computed: {states} states a trained parameter"
    )


def _loss_reason(notes: Notes, facts: ModelFacts) -> str:
    """Why this loss, and how it goes through the vocabulary when every position has a label."""
    if facts.loss_way is None:
        return facts.loss_reason
    rows = notes["per_device_train_batch_size"] * notes["max_length"]
    way = facts.loss_way(rows, notes["precision"], notes["model_dtype"], notes["device"])
    return f"{facts.loss_reason}; {way}"


def _optimizer_states(recipe: Recipe) -> int:
    if recipe.optimizer.name == "sgd":
        return int(recipe.optimizer.momentum > 0)
    return 2
