"""The run folder as others read it, and the table of runs."""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import fake_run
import pytest
from fake_run import end, make_run, start

from launcher.errors import EnvironmentProblem
from launcher.run_folder import RunFolder, find_runs
from launcher.verbs import runs as verb


def listing(root, capsys, *options: str) -> tuple[str, str]:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert verb.run(parser.parse_args([str(root), *options])) == 0
    return capsys.readouterr()


def ended_process() -> int:
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)


@pytest.mark.parametrize(
    ("attempts", "state"),
    [
        ([], "new"),
        ([start(), end(exit_code=0)], "done"),
        ([start(), end(exit_code=85)], "preempted"),
        ([start(), end(exit_code=130)], "interrupted"),
        ([start(), end(exit_code=89)], "failed (89)"),
        ([start(), end(exit_code=1)], "failed (1)"),
        ([start(), end(exit_code=89), start(2), end(2, exit_code=0)], "done"),
        ([start(pid=os.getpid(), time=time.time())], "running"),
        ([start(), end(exit_code=0), start(2, pid=os.getpid(), time=time.time())], "running"),
        # Our own pid, but the record is older than this process: the number was given to a stranger.
        ([start(pid=os.getpid(), time=fake_run.BEGAN)], "killed"),
        ([start(pid=None)], "killed"),
        ([start(pid=-1)], "killed"),
    ],
)
def test_state_follows_from_the_last_attempt(tmp_path, attempts, state):
    assert RunFolder(make_run(tmp_path, attempts=attempts)).state() == state


def test_a_start_without_end_is_killed_once_its_process_is_gone(tmp_path):
    attempts = [start(pid=ended_process(), host=socket.gethostname(), time=time.time())]
    assert RunFolder(make_run(tmp_path, attempts=attempts)).state() == "killed"


def test_a_process_that_has_ended_and_is_not_waited_for_does_not_live(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        attempts = [start(pid=process.pid, host=socket.gethostname(), time=time.time())]
        assert RunFolder(make_run(tmp_path, attempts=attempts)).state() == "killed"


def test_a_run_on_another_machine_counts_as_running_while_it_writes(tmp_path):
    run = make_run(tmp_path, attempts=[start(host="elsewhere", pid=os.getpid())])
    assert RunFolder(run).state() == "running"
    for name in ("metrics.jsonl", "attempts.jsonl"):
        os.utime(run / name, (time.time() - 3600,) * 2)
    assert RunFolder(run).state() == "killed"


def test_the_last_value_of_a_step_counts_and_a_torn_line_is_left_out(tmp_path):
    lines = [
        {"step": 0, "eval/loss": 9.0},
        {"step": 20, "train/loss": 2.0},
        {"step": 20, "eval/loss": 5.0},
        {"step": 10, "train/loss": 3.0},
        {"step": 20, "train/loss": 1.5},
    ]
    folder = RunFolder(make_run(tmp_path, metrics="".join(json.dumps(x) + "\n" for x in lines) + '{"step": 30, "trai'))
    assert folder.metrics() == [lines[0], lines[3], lines[2], lines[4]]
    assert folder.unreadable == [
        "metrics.jsonl:6 cannot be read and is left out (the last line: a write was cut short)"
    ]


def test_a_missing_file_reads_as_empty(tmp_path):
    folder = RunFolder(tmp_path / "nowhere")
    assert not folder.is_run() and folder.state() == "new"
    assert folder.metrics() == folder.attempts() == folder.samples() == []
    assert folder.plan() == folder.environment() == {}


def test_runs_are_found_at_any_depth_but_not_inside_runs(tmp_path):
    for name in ("a", "sweep/trial-1", "sweep/trial-2", "a/inner", "a/checkpoints/step-1", ".hidden/run"):
        make_run(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert [str(f.path.relative_to(tmp_path)) for f in find_runs(tmp_path)] == ["a", "sweep/trial-1", "sweep/trial-2"]
    assert [f.path for f in find_runs(tmp_path / "a")] == [tmp_path / "a"]


def test_table_is_aligned_and_tells_each_run(tmp_path, capsys):
    make_run(tmp_path / "second")
    make_run(tmp_path / "first", attempts=[start(time=fake_run.BEGAN - 9e6), end(exit_code=89)], metrics=None)
    lines = listing(tmp_path, capsys)[0].splitlines()
    assert lines[0].split()[:3] == ["run", "state", "task/method"] and len(lines) == 3
    assert lines[1].startswith("first ") and "failed (89)" in lines[1]
    for cell in ("second", "done", "causal_lm/lora", "300", "eval/loss 2.075 at 250", "4.270 → 2.105", "13 min 50 s"):
        assert cell in lines[2]
    for heading in ("state", "task/method", "best", "started"):
        column = lines[0].index(heading)
        assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


def test_json_holds_full_precision_and_null_for_what_is_missing(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", metrics='{"step": 4, "eval/loss": NaN}\n', attempts=None, recipe=None)
    a, b = sorted(
        json.loads(listing(tmp_path, capsys, "--json")[0], parse_constant=pytest.fail), key=lambda r: r["path"]
    )
    losses = [r["eval/loss"] for r in fake_run.metrics() if "eval/loss" in r]
    assert (a["eval_loss_first"], a["eval_loss_last"]) == (losses[0], losses[-1])
    assert (a["state"], a["last_step"], a["duration_seconds"]) == ("done", 300, 830.0)
    assert a["best"] == {"metric": "eval/loss", "value": min(losses), "step": 250}
    assert a["started"] == "2026-03-02T14:05:00+00:00"
    assert (b["state"], b["name"], b["best"], b["task"], b["started"], b["duration_seconds"]) == (
        "new",
        "b",
        *[None] * 4,
    )


def test_best_follows_the_metric_of_the_recipe(tmp_path, capsys):
    recipe = "evaluation: {metric_for_best_model: eval/token_f1}\n"
    make_run(tmp_path / "a", recipe=recipe)
    best = json.loads(listing(tmp_path, capsys, "--json")[0])[0]["best"]
    assert best["metric"] == "eval/token_f1"
    assert best["value"] == max(r["eval/token_f1"] for r in fake_run.metrics() if "eval/token_f1" in r)


def test_of_steps_that_are_as_good_the_exported_one_is_the_best(tmp_path, capsys):
    lines = "".join(
        json.dumps({"step": step, "eval/loss": loss}) + "\n" for step, loss in [(0, 1), (5, 1), (9, 1), (12, 2)]
    )
    for name, exported, expected in (("a", 9, 9), ("b", 12, 5), ("c", None, 5)):
        make_run(tmp_path / name, attempts=[start(), end(exit_code=0, exported_step=exported)], metrics=lines)
        assert json.loads(listing(tmp_path / name, capsys, "--json")[0])[0]["best"]["step"] == expected


def test_last_step_is_where_the_resumed_run_is_now(tmp_path, capsys):
    make_run(tmp_path / "a", metrics=[{"step": s, "train/loss": 1.0} for s in (10, 20, 30, 20)])
    assert json.loads(listing(tmp_path, capsys, "--json")[0])[0]["last_step"] == 20


def test_unreadable_lines_go_to_stderr_and_stop_nothing(tmp_path, capsys):
    make_run(tmp_path / "a", metrics='{"step": 1, "train/loss": 2.0}\n{"st')
    out, err = listing(tmp_path, capsys, "--json")
    assert json.loads(out)[0]["last_step"] == 1 and "metrics.jsonl:2" in err


def test_no_runs_and_no_folder(tmp_path, capsys):
    assert listing(tmp_path, capsys)[0].strip() == f"no runs in {tmp_path}"
    assert listing(tmp_path, capsys, "--json")[0].strip() == "[]"
    with pytest.raises(EnvironmentProblem, match="no such folder"):
        listing(tmp_path / "nowhere", capsys)


def test_listing_does_not_load_torch(tmp_path):
    make_run(tmp_path / "a")
    arguments = f"argparse.Namespace(root={str(tmp_path)!r}, json=False)"
    code = f"import sys, argparse; from launcher.verbs import runs; runs.run({arguments})"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)
