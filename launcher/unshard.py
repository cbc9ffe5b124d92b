"""The whole of a model that was trained in parts."""

from typing import Any

from launcher import proof, saved_state
from launcher.errors import CheckpointError
from launcher.export import Tensors, is_unused, reference
from launcher.run import Run, build_objective

# The ranks gather weights in the precision of the training: outputs may differ by this share of the largest.
OUTPUTS = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 2e-2, "fp16": 4e-3}


def on_rank_zero(run: Run) -> Any:
    """The trained model, whole, on rank zero. All ranks call.

    A sharded model is built again on rank zero's CPU from its last checkpoint, and every tensor and the outputs are compared
    with those of the ranks together; CheckpointError where they differ.
    """
    if not run.plan.shards_weights:
        return run.model
    _, outputs = reference(run.model, run.task, run.held_out())
    live = {name: proof.fingerprint(value) for name, value in run.engine.weights(run.model) if value is not None}
    model = problem = None
    if run.engine.is_main:
        try:
            model = _rebuilt(run, live, outputs)
        except CheckpointError as error:
            problem = error
    if problem := run.engine.broadcast(problem):
        raise problem
    return model


def _rebuilt(run: Run, live: dict[str, list[Any]], outputs: Tensors) -> Any:
    model = build_objective(run.prepared).model
    folder = run.checkpoints.folder(run.step)
    saved_state.load_model(model, folder / "model", run.engine)
    used = {name: found for name, found in live.items() if not is_unused(model, name)}
    if problems := proof.tensor_problems(model, used):
        raise CheckpointError(f"not what the ranks hold: {'; '.join(problems[:3])}", where=str(folder))
    _, own = reference(model, run.task, run.held_out())
    for name, values in own.items():
        off, scale = proof.difference(values, outputs[name].to(values.device))
        if not off <= OUTPUTS[run.plan.precision] * scale:
            raise CheckpointError(f"its {name} differ by {off:.3g} from those of the ranks", where=str(folder))
    return model
