"""The command line as a person types it: help, exit codes, where messages go, and that nothing waits for torch."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import broken
import pytest
import tiny

from launcher import spawn

VERBS = [
    "train",
    "check",
    "plan",
    "evaluate",
    "generate",
    "export",
    "report",
    "runs",
    "recipes",
    "convert",
    "verify-math",
    "lr-find",
]
LAUNCHER = [sys.executable, "-m", "launcher"]


def run(*words: str, cwd: Path | None = None, command: list[str] = LAUNCHER) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True, timeout=120)


def cpu_seconds() -> float:
    """Of all children so far: unlike the clock on the wall, it does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_names_every_verb_and_comes_at_once() -> None:
    before = cpu_seconds()
    done = run("--help")
    assert cpu_seconds() - before < 0.5
    assert done.returncode == 0
    for verb in [*VERBS, "schema"]:
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0 and f"launcher {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("case", broken.BROKEN, ids=lambda case: case.name)
def test_a_broken_recipe_ends_with_89_and_its_place(case: broken.Case, tmp_path: Path, capsys, monkeypatch) -> None:
    from launcher.__main__ import main

    path = case.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = main([str(path), *case.overrides])
    said = capsys.readouterr()
    assert code == 89
    assert case.expected(tmp_path) in said.err
    assert "Traceback" not in said.err and not said.out


SOME = [case for case in broken.BROKEN if case.name][:: max(1, len(broken.BROKEN) // 6)]


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_the_same_from_a_shell_within_a_second(case: broken.Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    before = cpu_seconds()
    done = run(str(path), *case.overrides, cwd=tmp_path)
    assert done.returncode == 89 and case.expected(tmp_path) in done.stderr and "Traceback" not in done.stderr
    assert cpu_seconds() - before < 1


@pytest.mark.parametrize(
    ("name", "content", "where", "said"),
    [
        ("rows.jsonl", '{"text": "the cat"}\n\n{"text": "the dog\n', " line 3", "not JSON"),  # found with the recipe
        ("rows.jsonl", '{"text": "a"}\n' * 200 + '{"text": "b\n', ":201", "not JSON"),  # found when it is read
        ("rows.jsonl", '{"text": "the cat"}\n{"text": 7}\n', ":2", "must be text, not int"),
        ("rows.jsonl", '{"text": "the cat"}\n["the"]\n', "", "rows that are not objects"),
        ("rows.csv", "text\nthe cat\nthe,dog\n", ":3", "cells where the header has 1"),
        ("rows.json", '[{"text": "a"}, {"prompt": "b"}]', " row 2", "no column 'text'"),
        ("rows.jsonl", '{"messages": [{"role": "user", "content": "the"}]}\n', "", "no row is left"),
    ],
)
def test_a_broken_row_ends_with_89_and_its_number(
    recipe: Path, tmp_path: Path, capsys, name, content, where, said
) -> None:
    (tmp_path / name).write_text(content)
    source = f"data.train=[{{path: {tmp_path / name}}}]"
    assert tiny.train(recipe, source, f"output_dir={tmp_path / 'run'}") == 89
    error = capsys.readouterr().err
    assert (f"{tmp_path / name}{where}" if where else name) in error or said == "no row is left"
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run").exists(), "nothing is begun before the data is known to be good"


@pytest.mark.parametrize("name", ["/sys/run", "file/run"])
def test_a_run_folder_that_cannot_be_made_ends_with_90(recipe: Path, tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "file").touch()
    assert tiny.train(recipe, f"output_dir={tmp_path / name}") == 90
    error = capsys.readouterr().err
    assert f"launcher: {tmp_path / name}: the run folder cannot be written to: " in error and "Traceback" not in error


def test_a_word_that_is_neither_verb_nor_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.__main__ import main

    assert main(["trian"]) == 89
    assert "did you mean the verb train" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "verify-math", "lr-find"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_fewer_than_one_process_is_refused(recipe: Path, capsys, verb: str, number: str) -> None:
    from launcher.__main__ import main

    assert main([verb, str(recipe), "--nproc", number]) == 89
    assert f"launcher: --nproc {number} is less than 1; " in capsys.readouterr().err


def test_two_ranks_by_nproc_share_one_run(recipe: Path, tmp_path: Path) -> None:
    done = run("train", str(recipe), "--nproc", "2", "training.max_steps=3", f"output_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plan of tiny") == 1
    assert sorted(tiny.losses(tmp_path / "run")) == [1, 2, 3]


def test_a_failing_rank_ends_the_others_with_its_code(recipe: Path, tmp_path: Path) -> None:
    """The learning rate blows the loss up: every rank sees it, the exit code says non-finite, the weights are not touched."""
    words = [
        "optimizer.name=sgd",
        "optimizer.learning_rate=1e30",
        "optimizer.weight_decay=0",
        "training.max_grad_norm=null",
    ]
    done = run(
        "train", str(recipe), "--nproc", "2", *words, "method=full", "adapter=null", f"output_dir={tmp_path / 'run'}"
    )
    assert done.returncode == 87, done.stderr
    assert "gradient norm is" in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_killed_launcher_leaves_no_rank_behind(recipe: Path, tmp_path: Path) -> None:
    """Ranks that live on would keep the GPUs."""
    words = ["train", str(recipe), "--nproc", "2", "training.max_steps=100000", f"output_dir={tmp_path / 'run'}"]
    parent = subprocess.Popen([*LAUNCHER, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and len(tiny.losses(tmp_path / "run")) > 2, 90)
    ranks = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(ranks) == 2
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(alive(rank) for rank in ranks), 5)


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ([0, 0], 0),
        ([87, 86], 87),
        ([-signal.SIGKILL, 86], 86),
        ([-signal.SIGSEGV, 1, -signal.SIGKILL], 86),  # a lost rank is the reason; the last was ended by us
        ([-signal.SIGKILL, 91], 91),
        ([-signal.SIGINT, -signal.SIGINT], 130),
        ([-signal.SIGTERM, 86], 143),
    ],
)
def test_the_exit_code_of_ranks_is_that_of_the_first_failure(ended: list[int], code: int) -> None:
    assert spawn.exit_code(ended) == code


def test_a_lost_rank_is_86_and_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Rank one is killed; rank zero lives on and is ended after its grace, without a word."""
    program = "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(60)"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **o: popen([command[0], "-c", program], **o))
    monkeypatch.setattr(spawn, "GRACE_SECONDS", 0.2)
    assert spawn.run(2, []) == 86
    said = capfd.readouterr().err.strip().splitlines()
    assert said == [
        "launcher: rank 1 is lost: it was ended by signal 9 (Killed); if nobody sent it, `dmesg` may tell why"
    ]


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("starter", ["accelerate", "torchrun"])
def test_under_a_starter_the_message_is_what_one_needs(recipe: Path, tmp_path: Path, starter: str) -> None:
    """Both print tracebacks of their own; ours must be there, located, once a machine, and torchrun's summary ends with it."""
    (tmp_path / "bad.yaml").write_text(recipe.read_text().replace("learning_rate", "lerning_rate"))
    begin = {
        "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "-m"],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"],
    }[starter]
    done = run("launcher", str(tmp_path / "bad.yaml"), command=begin)
    assert done.returncode != 0
    assert "bad.yaml:10:13 optimizer.lerning_rate" in done.stderr and "did you mean learning_rate" in done.stderr
    if starter == "torchrun":
        assert "optimizer.lerning_rate" in done.stderr.strip().splitlines()[-2]
