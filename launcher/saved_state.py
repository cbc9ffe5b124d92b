"""The tensors of a checkpoint, by name, whatever the strategy and the number of ranks that wrote them.

    model/       a Hugging Face folder: the whole model under its own names, or the adapter as PEFT writes it
    optimizer/   <parameter>//<state> of each parameter that is trained

Every rank calls these functions, since sharded tensors are gathered one by one; rank zero alone writes.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher import prompts, tensor_files
from launcher.engine import Engine
from launcher.errors import CheckpointError

RESUME = "resume with the recipe of the run"


def save_model(model: Any, folder: Path, engine: Engine) -> None:
    if hasattr(model, "peft_config"):
        values = dict(engine.weights(model, only=_names_in_file(model)))
        if engine.is_main:
            whole = {name: values[first] for name, first in _first_names(model).items() if first in values}
            with tensor_files.os_errors():
                model.save_pretrained(folder, state_dict=whole, save_embedding_layers=False)
        return
    tensor_files.write(folder, "model", engine.weights(model))
    if engine.is_main:
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)


def load_model(model: Any, folder: Path, engine: Engine) -> None:
    """Put the weights of `save_model` into a model of the same recipe."""
    if hasattr(model, "peft_config"):
        names = _names_in_file(model)
        read = tensor_files.read(folder, "adapter_model")
    else:
        names = {name: name for name in _first_names(model).values()}
        read = tensor_files.read(folder, "model")
    missing = [name for name in names.values() if name not in read]
    left_over = [name for name in read if name not in names.values()]
    if missing or left_over:
        raise CheckpointError(
            f"{(missing or left_over)[0]} is {'missing' if missing else 'unexpected'}", where=str(folder), fix=RESUME
        )
    try:
        engine.load_weights(model, {name: read[in_file] for name, in_file in names.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit: {str(error).splitlines()[-1].strip()}", where=str(folder), fix=RESUME
        ) from error


def save_optimizer(folder: Path, engine: Engine) -> None:
    states = ((f"{name}//{key}", value) for name, key, value in engine.optimizer_states())
    on_main = ((name, value.detach().cpu().contiguous() if engine.is_main else None) for name, value in states)
    tensor_files.write(folder, "optimizer", on_main)


def load_optimizer(folder: Path, engine: Engine) -> None:
    """Load what `save_optimizer` wrote. A state for other parameters than the model trains is an error that names the first."""
    trained = {name for name, parameter in engine.objective.named_parameters() if parameter.requires_grad}
    states: dict[str, dict[str, Tensor]] = {}
    read = tensor_files.read(folder, "optimizer") if folder.exists() else {}  # an optimizer may have no state
    for entry, value in read.items():
        name, key = entry.split("//")
        if name not in trained:
            raise CheckpointError(f"the checkpoint trained {name}, this recipe does not", where=str(folder), fix=RESUME)
        states.setdefault(name, {})[key] = value()
    if states and (untouched := sorted(trained - set(states))):
        raise CheckpointError(
            f"the checkpoint has no optimizer state for {untouched[0]}", where=str(folder), fix=RESUME
        )
    engine.load_optimizer_states(states)


def _first_names(model: Any) -> dict[str, str]:
    """Name of each parameter and buffer of the state -> the first name of that tensor, since tied ones have several."""
    first: dict[int, str] = {}
    state = {n: tensor for n, tensor in model.state_dict(keep_vars=True).items() if torch.is_tensor(tensor)}
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def _names_in_file(model: Any) -> dict[str, str]:
    """Name of each tensor of the adapter in the model -> its name in PEFT's file: PEFT renames a state of markers for us."""
    import peft

    markers = {name: torch.empty(0) for name in _first_names(model)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the markers are empty
        renamed = peft.get_peft_model_state_dict(model, state_dict=dict(markers), save_embedding_layers=False)
    if prompts.is_before(model):  # PEFT writes the prompt as the model holds it, under a name of its own
        (encoder,) = (name for name in markers if name.startswith("prompt_encoder."))
        renamed["prompt_embeddings"] = markers[encoder]
    of_marker = {id(marker): name for name, marker in markers.items()}
    return {of_marker[id(marker)]: name for name, marker in renamed.items()}
