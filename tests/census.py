"""What a rank really holds: a run of two steps in this process, and every tensor that Python can see, sorted by kind."""

import gc
import time
from collections.abc import Iterable, Iterator
from typing import Any

PARTS = ("weights", "gradients", "optimizer", "communication")
SAMPLES = 3


def take(recipe_file: str, words: list[str]) -> dict[str, Any]:
    """Bytes of each part, as planned and as found; and what the plan moves to the memory of the node."""
    from launcher import engine, recipe, run
    from launcher.output import Place

    prepared = run.prepare_all(recipe.load(recipe_file, words), engine.world())
    if prepared.plan.method == "qlora":
        _make_tables()
    gc.collect()
    gc.freeze()  # what is there already is not looked at again
    running = engine.Engine(prepared.plan)
    try:
        found = _stock(run.set_up(prepared, running, Place(None, None, None)))
    finally:
        running.close()
        gc.unfreeze()
    plan = prepared.plan
    planned = (
        plan.weight_bytes_per_rank,
        plan.gradient_bytes_per_rank,
        plan.optimizer_bytes_per_rank,
        plan.communication_bytes_per_rank,
    )
    on_host = plan.host_bytes_per_node // plan.processes_per_node
    return {"planned": dict(zip(PARTS, planned, strict=True)), "found": found, "on host": on_host}


def _make_tables() -> None:
    """Those that bitsandbytes makes once a process."""
    import torch
    from bitsandbytes import functional

    functional.quantize_4bit(torch.zeros(64, 64), compress_statistics=True, quant_type="nf4")


def _stock(ready: Any) -> dict[str, int]:
    """Of the second step: only then are there states, and small weights gathered.

    Gradients are all that is neither a weight nor of the optimizer nor a buffer, so that nothing can be forgotten: the most after
    any backward pass, or after the step.
    """
    buckets, gradients = _watch_buckets(ready), _watch_reduction(ready)
    for step in range(2):
        for _ in _backward_passes(ready, step):
            gradients += [_kinds(ready)["gradients"]] if step == 1 else []
        ready.engine.set_learning_rate(1e-3)
        ready.engine.step()
    kinds = _kinds(ready)
    kinds["communication"] = max([kinds["communication"], *buckets])
    return kinds | {"gradients": max(kinds["gradients"], *gradients)}


def _backward_passes(ready: Any, step: int) -> Iterator[None]:
    from launcher import loop

    batches = [batch for _, batch in ready._micro_batches(step)]
    counts = loop._counts(ready, list(enumerate(batches)))
    while batches:
        ready.engine.forward_backward(batches.pop(0), counts, last=not batches)
        yield


def _kinds(ready: Any) -> dict[str, int]:
    """Bytes of the storages of each kind; but for single numbers, integers, and what modules keep besides parameters."""
    import torch

    zero, strategy = _sharded(ready), ready.engine._strategy
    parameters = list(ready.objective.parameters())
    states = (value for state in ready.engine.optimizer.state.values() for value in state.values())
    kept = (value for module in ready.objective.modules() for value in (*vars(module).values(), *module.buffers()))
    named = {
        "weights": _storages(tensor for p in parameters for tensor in _parts_of(p)),
        "optimizer": _storages(
            [
                *(strategy._flat_parts() if zero else ()),
                *(value for value in states if torch.is_tensor(value) and value.numel() > 1),
            ]
        ),
        "communication": _storages(_buckets(zero)),
    }
    beside = _storages(
        [*(value for value in kept if torch.is_tensor(value)), getattr(zero, "inf_or_nan_tracker", None)]
    )
    known = beside.keys() | {pointer for storages in named.values() for pointer in storages}
    sums = {kind: sum(storages.values()) for kind, storages in named.items()}
    return sums | {"gradients": min(_others(known) for _ in range(SAMPLES))}


def _parts_of(parameter: Any) -> Iterator[Any]:
    """A parameter, its share under zero3, and what belongs to a quantised one."""
    yield from (parameter.data, getattr(parameter, "ds_tensor", None), getattr(parameter, "SCB", None))
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield from (state.absmax, state.code)
        if state.nested:
            yield from (state.offset, state.state2.absmax, state.state2.code)


def _others(known: set[int]) -> int:
    """Bytes of all other storages of numbers. A thread of gloo may hold one for a moment longer than its exchange takes."""
    time.sleep(0.01)
    found = _storages(tensor for tensor in _alive() if tensor.numel() > 1 and tensor.is_floating_point())
    return sum(size for pointer, size in found.items() if pointer not in known)


def _watch_buckets(ready: Any) -> list[int]:
    """Bytes of buffers that are there in the backward pass only (zero1, zero2), or that Python cannot see (ddp)."""
    zero, sizes = _sharded(ready), []
    if type(ready.engine._wrapped).__name__ == "DistributedDataParallel" and ready.plan.gradient_accumulation_steps > 1:
        logged = ready.engine._wrapped._get_ddp_logging_data()
        sizes.append(sum(map(int, logged["bucket_sizes"].split(","))))
    if type(zero).__name__ == "DeepSpeedZeroOptimizer":
        release = zero._release_ipg_buffers

        def count_and_release() -> None:
            sizes.append(sum(_storages(_buckets(zero)).values()))
            release()

        zero._release_ipg_buffers = count_and_release
    return sizes


def _watch_reduction(ready: Any) -> list[int]:
    """Bytes of gradients when the last backward pass has ended and DeepSpeed's zero1 begins to reduce them."""
    zero, sizes = _sharded(ready), []
    if type(zero).__name__ == "DeepSpeedZeroOptimizer" and not zero.partition_gradients:
        reduce = zero.reduce_gradients

        def count_and_reduce(*arguments: Any, **options: Any) -> None:
            sizes.append(_kinds(ready)["gradients"])
            reduce(*arguments, **options)

        zero.reduce_gradients = count_and_reduce
    return sizes


def _sharded(ready: Any) -> Any:
    """DeepSpeed's optimizer, or None."""
    return getattr(ready.engine._strategy, "_sharded", None)


def _buckets(zero: Any) -> list[Any]:
    """One tensor a bucket under zero3, a list of them under zero1 and zero2."""
    buffers = [bucket.buffer for bucket in getattr(zero, "ipg_buckets", {}).values()]
    return [tensor for buffer in buffers for tensor in (buffer if isinstance(buffer, list) else [buffer])]


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Address -> bytes."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}


def _alive() -> Iterator[Any]:
    import torch

    gc.collect()
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            yield thing
            if thing.is_leaf and thing.grad is not None:
                yield thing.grad
