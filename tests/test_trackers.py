"""Trackers write what they are given, and an outage of one never stops the rest."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import log, parts
from launcher.trackers import Trackers

PLAN = SimpleNamespace(total_steps=100)
TRAIN = {
    "epoch": 0.1, "tokens": 10, "time": 1.0, "train/loss": 1 / 3, "train/learning_rate": 1e-4, "train/grad_norm": 2.0,
    "train/tokens_per_second": 1234.5, "train/peak_memory_gib": 0.5,
}  # fmt: skip


def test_jsonl_keeps_full_precision_and_appends(tmp_path: Path) -> None:
    for step in (1, 2):  # two attempts at one run
        trackers = Trackers(("jsonl",), tmp_path, PLAN)
        trackers.log(step, TRAIN)
        trackers.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["train/loss"] == 1 / 3


def test_jsonl_has_no_nan_which_is_no_json(tmp_path: Path) -> None:
    trackers = Trackers(("jsonl",), tmp_path, PLAN)
    trackers.log(1, TRAIN | {"train/loss": float("nan"), "train/grad_norm": float("inf")})
    trackers.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == TRAIN.keys() - {"train/loss", "train/grad_norm"} | {"step"}


def test_a_torn_last_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "tr')
    trackers = Trackers(("jsonl",), tmp_path, PLAN)
    trackers.log(2, TRAIN)
    trackers.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2 and len(lines) == 3


def test_an_outage_is_said_once_and_the_others_go_on(tmp_path: Path, monkeypatch, capsys) -> None:
    class Broken:
        def log(self, step: int, values: dict) -> None:
            raise ConnectionError("no route")

        def close(self) -> None:
            raise ConnectionError("no route")

    real = parts.load
    fake = SimpleNamespace(open=lambda folder, plan: Broken())
    monkeypatch.setattr(parts, "load", lambda kind, name: fake if name == "broken" else real(kind, name))
    log.set_up(0)
    trackers = Trackers(("broken", "jsonl"), tmp_path, PLAN)
    for step in range(5):
        trackers.log(step, TRAIN)
    trackers.close()
    assert capsys.readouterr().out.count("tracker broken failed") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_the_console_says_what_a_person_watches(tmp_path: Path, capsys) -> None:
    log.set_up(0)
    trackers = Trackers(("console",), tmp_path, PLAN)
    trackers.log(1, TRAIN)
    trackers.log(2, TRAIN)
    trackers.log(2, {"epoch": 0.1, "eval/loss": 0.5})
    trackers.close()
    said = capsys.readouterr().out
    for word in ("step 2/100", "loss 0.3333", "lr 1.00e-04", "grad 2.00", "1,23", "tokens/s", "GiB", "ETA 0:", "eval"):
        assert word in said
    assert "\r" not in said, "plain lines where there is no terminal"


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trackers = Trackers(("tensorboard",), tmp_path, PLAN)
    trackers.log(1, TRAIN)
    trackers.close()
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert b"train/loss" in events.read_bytes()
