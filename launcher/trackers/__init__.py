"""Where metrics go. One file a tracker: `open(folder, plan)` gives an object with `log(step, values)` and `close()`.

Trackers run on rank zero only, and an outage of one never stops training: it is reported once and left out from then on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from launcher import log, parts


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """All trackers of a run behind one door."""

    def __init__(self, names: tuple[str, ...], folder: Path, plan: Any):
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._guard(
                name, lambda name=name: self._open.update({name: parts.load("trackers", name).open(folder, plan)})
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, lambda tracker=tracker: tracker.log(step, values))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.close)

    def _guard(self, name: str, action: Any) -> None:
        try:
            action()
        except Exception as error:
            log.say(f"tracker {name} failed and is left out from now on: {type(error).__name__}: {error}")
            self._open.pop(name, None)
