"""What a run says: lines for a person on rank zero's screen, everything in `log/rank-N.log`, and one live line on a terminal."""

import logging
import os
import sys
from functools import cache
from pathlib import Path

from launcher.errors import printable

_logger = logging.getLogger("launcher")
_logger.setLevel(logging.INFO)
_logger.propagate = False


class _Screen(logging.Handler):
    """Prints to standard output, or `aside`; a live line is wiped before anything else is printed."""

    live, aside = "", False

    def emit(self, record: logging.LogRecord) -> None:
        self.wipe()
        print(self.format(record), flush=True, file=sys.stderr if self.aside else sys.stdout)

    def wipe(self) -> None:
        if self.live:
            sys.stdout.write("\r\x1b[K")
            self.live = ""


_screen = _Screen()


def set_up(rank: int, folder: Path | None = None, aside: bool = False) -> None:
    """Rank zero speaks on the screen, `aside` on standard error where standard output is for data; with a run folder, every rank
    also writes its own file."""
    _screen.aside = aside
    for handler in list(_logger.handlers):
        _logger.removeHandler(handler)
        handler.close()
    if rank == 0:
        _logger.addHandler(_screen)
    if folder is not None:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(folder / "log" / f"rank-{rank}.log", encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        _logger.addHandler(to_file)


def say(message: str) -> None:
    _logger.info(printable(message))


@cache
def say_once(message: str) -> None:
    """What is found out more than once: a folder is read for its fingerprint and for its rows."""
    say(message)


def live(line: str) -> None:
    """Replace the live line on a terminal; elsewhere it is an ordinary line."""
    if not sys.stdout.isatty():
        say(line)
        return
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 120
    sys.stdout.write("\r\x1b[K" + line[: width - 1])
    sys.stdout.flush()
    _screen.live = line


def finish_live() -> None:
    """Leave the live line standing."""
    if _screen.live:
        sys.stdout.write("\n")
        _screen.live = ""


def speaks() -> bool:
    """Whether this rank has the screen."""
    return _screen in _logger.handlers
