"""Mistakes that people fear in a trainer, made on purpose; `launch` runs a command line with some of them in place."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny


def launch(mistakes: Sequence[str], words: list[str]) -> int:
    with ExitStack() as stack:
        for mistake in mistakes:
            stack.enter_context(MISTAKES[mistake]())
        return tiny.launch(words)


def start(processes: int, mistakes: Sequence[str], words: list[str], log: Path) -> int:
    """As `spawn.run`: ranks that end with the first of them that fails."""
    context, port = multiprocessing.get_context("forkserver"), tiny.free_port()
    context.set_forkserver_preload(tiny.PRELOAD)
    arguments = [(rank, processes, port, mistakes, words, str(log)) for rank in range(processes)]
    started = [context.Process(target=_rank, args=given) for given in arguments]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started) and not any(process.exitcode for process in started):
        time.sleep(0.05)
    for process in started:
        process.kill()
        process.join()
    return max(abs(process.exitcode or 0) for process in started)


def _rank(rank: int, world: int, port: int, mistakes: Sequence[str], words: list[str], log: str) -> None:
    with open(log, "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    tiny.set_rank(rank, world, port)
    sys.exit(launch(mistakes, words))


@contextmanager
def replaced(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """`around(original, *arguments)` in place of a function."""
    original = getattr(owner, name)
    with patch.object(owner, name, lambda *a, **k: around(original, *a, **k)):
        yield


def packing_leaks() -> Any:
    """Positions go on from one packed example to the next, which tells attention that they are one text."""
    import torch

    from launcher.data import collate

    def leak(packed: Any, *arguments: Any) -> Any:
        batch = packed(*arguments)
        positions = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
        return {**batch, "position_ids": positions}

    return replaced(collate, "packed", leak)


def fused_mask_is_off_by_one() -> Any:
    """The fused loss takes labels one position late, where some are masked: the comparison on the first row has none that are."""
    from launcher import losses

    def late(from_hidden: Any, hidden: Any, head: Any, labels: Any, *others: Any) -> Any:
        return from_hidden(hidden, head, labels.roll(1, -1) if (labels < 0).any() else labels, *others)

    return replaced(losses, "from_hidden", late)


def checkpointing_cuts_the_graph() -> Any:
    """A layer that is recomputed passes no gradient on to the one below."""
    from launcher import activations

    return patch.object(activations, "_recomputed", lambda layer, states, *shared: layer(states.detach(), *shared))


def last_micro_batch_is_dropped() -> Any:
    """Each rank leaves its last micro-batch out, counts and all, unless it is its only one."""
    from launcher import loop

    def short(backward: Any, run: Any, step: int, micro_batches: list[Any], votes: Any) -> Any:
        return backward(run, step, micro_batches[:-1] or micro_batches, votes)

    return replaced(loop, "backward", short)


def mean_of_micro_batches() -> Any:
    """Each micro-batch is averaged over its own tokens, and then the averages are."""
    from launcher.engine import Engine

    def averaged(forward_backward: Any, engine: Engine, batch: Any, counts: Any, last: bool) -> Any:
        own = engine.objective.counts(batch)
        counts = {name: own[name] * engine.plan.micro_batches_per_step for name in own}
        return forward_backward(engine, batch, counts, last)

    return replaced(Engine, "forward_backward", averaged)


def each_rank_counts_alone() -> Any:
    """A rank takes its own tokens times the number of ranks for those of all."""
    from launcher.engine import Engine

    def alone(total: Any, engine: Engine, values: Any) -> Any:
        is_loss = any(name.endswith(" sum") for name in values)
        return total(engine, values) if is_loss else {name: n * engine.world_size for name, n in values.items()}

    return replaced(Engine, "sum", alone)


def ddp_never_exchanges() -> Any:
    from launcher.engine.replicated import Replicated

    def own(forward_backward: Any, engine: Any, batch: Any, counts: Any, last: bool) -> Any:
        return forward_backward(engine, batch, counts, last and not isinstance(engine._strategy, Replicated))

    from launcher.engine import Engine

    return replaced(Engine, "forward_backward", own)


def zero2_keeps_the_last_micro_batch_only() -> Any:
    """DeepSpeed is told of every micro-batch that the step ends with it."""
    from launcher.engine.zero import Zero

    def ends(backward: Any, strategy: Zero, loss: Any, last: bool) -> Any:
        return backward(strategy, loss, last or strategy.stage == 2)

    return replaced(Zero, "backward", ends)


def zero3_breaks_on_rank_one() -> Any:
    """One rank gives up while the other waits for it in a collective."""
    from launcher.engine.zero import Zero

    def breaks(backward: Any, strategy: Zero, loss: Any, last: bool) -> Any:
        if strategy.stage == 3 and os.environ["RANK"] == "1":
            raise ValueError("rank one has lost its nerve")
        return backward(strategy, loss, last)

    return replaced(Zero, "backward", breaks)


MISTAKES = {
    made.__name__: made
    for made in (
        packing_leaks,
        fused_mask_is_off_by_one,
        checkpointing_cuts_the_graph,
        last_micro_batch_is_dropped,
        mean_of_micro_batches,
        each_rank_counts_alone,
        ddp_never_exchanges,
        zero2_keeps_the_last_micro_batch_only,
        zero3_breaks_on_rank_one,
    )
}
