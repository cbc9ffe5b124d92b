"""Ranks that stay: each command line runs in processes that have imported torch and DeepSpeed already."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import tiny

SECONDS = 280  # for one run


class Workers:
    """`Workers(2).run(["train", ...], log)`: the launcher in two ranks, their exit codes. A rank that hangs is replaced."""

    def __init__(self, world: int):
        self.world = world
        self._start()

    def run(self, words: list[str], log: Path) -> list[int | None]:
        """`launcher WORDS`: exit codes by rank, None for a rank that did not end in time or died."""
        return self.call(tiny.launch, words, log=log)

    def call(self, function: Callable[..., Any], *arguments: Any, log: Path) -> list[Any]:
        """What a function of a module returns, by rank. `log` collects what all of them print."""
        port = tiny.free_port()
        for rank, (_, connection) in enumerate(self._ranks):
            connection.send((rank, self.world, port, function, arguments, str(log)))
        answers = [_answer(connection) for _, connection in self._ranks]
        if None in answers:
            self.close()
            self._start()
        return answers

    def close(self) -> None:
        for process, connection in self._ranks:
            process.kill()
            process.join()
            connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(tiny.PRELOAD)
        self._ranks = []
        for _ in range(self.world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))


def _answer(connection: Connection) -> Any:
    try:
        return connection.recv() if wait([connection], SECONDS) else None
    except EOFError:
        return None


def _serve(connection: Connection) -> None:
    while True:
        try:
            rank, world, port, function, arguments, log = connection.recv()
        except EOFError:
            return
        with open(log, "a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        tiny.set_rank(rank, world, port)
        connection.send(_call(function, arguments))


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Exception:
        traceback.print_exc()
        return None
