"""A plugin of pytest that writes a line for each test as soon as it has ended, to the file that GPU_TEST_LINES names."""

import json
import os
from typing import Any

LONGEST_REASON = 300


def pytest_runtest_logreport(report: Any) -> None:
    """The call decides; set-up and clean-up count where they did not pass."""
    if report.when == "call" or not report.passed:
        _write(report.nodeid, report.outcome, report.duration, _reason(report))


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _write(report.nodeid, "failed", 0.0, _reason(report))


def _reason(report: Any) -> str:
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    said = crash.message if crash else str(report.longrepr).strip().splitlines()[-1]
    return str(said)[:LONGEST_REASON]


def _write(name: str, outcome: str, seconds: float, reason: str) -> None:
    line = {"test": name, "outcome": outcome, "seconds": round(seconds, 2), "reason": reason}
    with open(os.environ["GPU_TEST_LINES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
