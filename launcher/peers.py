"""When another rank is lost: say so, with its reason where it could leave one.

A rank that fails leaves its error in the store that the ranks have met at. The others notice a closed connection, or wait
until `distributed.timeout_minutes` are over; rank zero, which keeps the record of the run, then looks for the first error.
"""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from launcher import log
from launcher.errors import HangError, LauncherError, exit_code_of

KEY = "launcher/first_error"


@contextmanager
def watched(timeout_minutes: float) -> Iterator[None]:
    """Around all that talks to other ranks: their loss becomes a LauncherError, an error of ours is left for them."""
    try:
        yield
    except Exception as error:
        if not _is_of_the_network(error):
            _leave(error)
            raise
        raise _first_error() or _lost(error, timeout_minutes) from error


def _is_of_the_network(error: Exception) -> bool:
    """Gloo raises plain RuntimeErrors, which only their text tells from others."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _lost(error: Exception, timeout_minutes: float) -> LauncherError:
    if isinstance(error, dist.DistStoreError):
        return HangError(
            f"not all processes have come to the meeting point: {_said(error)}",
            fix=f"look at the other nodes: one has failed, or still prepares its data after the {timeout_minutes:g} minutes "
            "of distributed.timeout_minutes",
        )
    if "connectFullMesh" in str(error):
        return HangError(
            f"the processes have met, but do not reach each other: {_said(error)}",
            fix="open all ports between the nodes, or export GLOO_SOCKET_IFNAME with the interface that leads to the others",
        )
    ended = re.search("connection (closed|reset) by peer", str(error), re.IGNORECASE)
    happened = "has ended" if ended else f"is lost, or did not answer within {timeout_minutes:g} minutes"
    return HangError(
        f"another process {happened}: {_said(error)}",
        fix="the first error is in its own output, or at the end of its log/rank-N.log; go on with --resume auto",
    )


def _said(error: Exception) -> str:
    """The sentence of the library, without the place in its own source and without its advice."""
    text = re.sub(r"\[/[^\]]*\]\s*", "", str(error).splitlines()[0])
    return text.split(". This is typically")[0].strip()


def _leave(error: Exception) -> None:
    """For rank zero's eyes. Ranks that fail alike need no word, but they cannot know that they do."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        return
    log.say(f"ended with {type(error).__name__}: {error}")
    word = {
        "rank": dist.get_rank(),
        "host": socket.gethostname(),
        "exit_code": exit_code_of(error),
        "error": _named(error),
    }
    try:
        _get_default_store().set(KEY, json.dumps(word))
    except RuntimeError as gone:
        log.say(f"rank zero could not be told: {_said(gone)}")


def _first_error() -> LauncherError | None:
    """What another rank has left; rank zero asks, as the store is on its node and answers whatever the network does."""
    if not dist.is_initialized() or dist.get_rank() != 0:
        return None
    store = _get_default_store()
    if not store.check([KEY]):
        return None
    word: dict[str, Any] = json.loads(store.get(KEY))
    failed = LauncherError(f"rank {word['rank']} on {word['host']} failed: {word['error']}")
    failed.exit_code = word["exit_code"]
    return failed


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, LauncherError) else f"{type(error).__name__}: {error}"
