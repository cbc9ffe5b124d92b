"""Turns a run folder into one self-contained report.html: no network, no scripts from elsewhere, light and dark."""

import os
from pathlib import Path

from launcher.report.page import render
from launcher.run_folder import RunFolder

__all__ = ["render", "write"]


def write(run: str | Path) -> Path:
    """Write `report.html` into the run folder and return its path. An older report is replaced in one move."""
    target = Path(run) / "report.html"
    unfinished = target.with_name(".report.html.part")
    # A model may answer with half of a character (a lone surrogate), which UTF-8 cannot hold: it is shown as \udxxx.
    unfinished.write_bytes(render(RunFolder(run)).encode("utf-8", errors="backslashreplace"))
    os.replace(unfinished, target)
    return target
