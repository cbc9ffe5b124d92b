"""The most memory that a rank has allocated in a step, from the allocator's own log, beside what the plan expects."""

import gc
from typing import Any

ROWS, LENGTH, VOCABULARY = 2, 256, 25
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6, "vocab_size": 2048}


def take(recipe_file: str, words: list[str]) -> tuple[int, int, int]:
    """(planned, at least allocated, at most allocated) bytes in the second step, with two micro-batches of full rows.

    The log has what this thread frees. A thread of gloo may be the last that holds a tensor: then the log seems to hold too much
    in the end, and it may do so already at the peak.
    """
    from torch.profiler import ProfilerActivity, profile

    from launcher import engine, recipe, run
    from launcher.output import Place

    prepared = run.prepare_all(recipe.load(recipe_file, words), engine.world())
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        running = engine.Engine(prepared.plan)
        ready = run.set_up(prepared, running, Place(None, None, None))
        for step in range(2):
            _one_step(ready, begins=f"step {step}")
        gc.collect()
    running.close()
    del ready
    gc.collect()
    peak, end = _peak_and_end(log, "step 1")
    return prepared.plan.total_bytes_per_rank, peak - max(0, end - _kept(prepared.plan)), peak


def _kept(plan: Any) -> int:
    """Bytes that are there after a step; test_memory_reality.py counts them."""
    kept = plan.weight_bytes_per_rank + plan.optimizer_bytes_per_rank
    if plan.strategy in ("ddp", "zero3"):
        kept += plan.communication_bytes_per_rank
    return kept + (plan.gradient_bytes_per_rank if plan.strategy == "zero3" else 0)


def _one_step(ready: Any, begins: str) -> None:
    from torch.profiler import record_function

    from launcher import loop

    with record_function(begins):
        batches = [(0, _full_rows(ready.plan.packing)), (1, _full_rows(ready.plan.packing))]
    counts = loop._counts(ready, batches)
    for number, batch in batches:
        ready.engine.forward_backward(batch, counts, last=number == 1)
    ready.engine.set_learning_rate(1e-3)
    ready.engine.step()


def _full_rows(packing: bool) -> dict[str, Any]:
    """Rows of full length with a label at every position; with two examples each, or the last token of one row as padding."""
    import torch

    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    if packing:
        return {"input_ids": ids, "labels": ids, "position_ids": torch.arange(LENGTH // 2).repeat(ROWS, 2)}
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, -1] = 0
    return {"input_ids": ids, "labels": ids, "attention_mask": mask}


def _peak_and_end(log: Any, name: str) -> tuple[int, int]:
    """Bytes allocated and not yet freed: the most since `name` began, and in the end.

    Kineto's events tell what happened, when, and of how many bytes, negative if they were freed.
    """
    events = sorted(log.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    begin = next(event.start_ns() for event in events if event.name() == name)
    live = peak = 0
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live) if event.start_ns() >= begin else peak
    return peak, live
