"""`make gpu` on a CPU, tiny: what it leaves behind, what it says is missing, and what becomes of a part that is over its time."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import recipe

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "gpu" / "run.py"
HIDE = """\
import importlib.machinery as machinery
found = machinery.PathFinder.find_spec
def find_spec(cls, name, *rest):
    return None if name.split(".")[0] in {"trl", "liger_kernel", "pydantic", "deepspeed"} else found(name, *rest)
machinery.PathFinder.find_spec = classmethod(find_spec)
"""
SLOW_PROGRAM = """\
import json, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
content = {"first": 1, "child": child.pid, "skipped": {"a peer": "not installed"}}
pathlib.Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps(content))
time.sleep(60)
"""
LLAMA_WEIGHTS = 1_235_814_400 - 33 * 2048  # the published number of parameters without norms
LLAMA_LORA = 11_272_192  # what PEFT counts for r=16 on all linear layers


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result file of a run to which some libraries are invisible."""
    hidden, folder = tmp_path_factory.mktemp("hidden"), tmp_path_factory.mktemp("results")
    (hidden / "sitecustomize.py").write_text(HIDE)
    environment = os.environ | {"PYTHONPATH": str(hidden)}
    command = [sys.executable, SCRIPT, "--device", "cpu", "--smoke", "--minutes", "2", folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    (file,) = folder.iterdir()
    assert done.returncode == 0, done.stdout + done.stderr
    return file


def test_one_file_with_all_sections(smoke: Path) -> None:
    content = json.loads(smoke.read_text())
    assert smoke.name == f"cpu-{content['date']}.json"
    assert {"tests", "kernels", "training", "skipped", "versions", "machine"} <= set(content)
    assert content["tests"]["failed"] == 0
    assert content["kernels"]
    assert content["smoke"] is True


def test_training_runs_are_complete_and_compute_the_same(smoke: Path) -> None:
    runs = json.loads(smoke.read_text())["training"]["runs"]
    assert len(runs) == 4 and all(run["complete"] and run["tokens_per_second"] > 0 for run in runs)
    for method in ("lora", "full"):
        fused, plain = (
            [r["losses"] for r in runs if (r["method"], r["loss"]) == (method, x)] for x in ("fused", "plain")
        )
        assert fused[0] == pytest.approx(plain[0], rel=1e-3)  # bf16


def test_what_is_missing_is_named(smoke: Path) -> None:
    content = json.loads(smoke.read_text())
    assert content["skipped"]["launcher"] == "pydantic: not installed"
    assert "trl" in content["skipped"]["TRL SFTTrainer"]
    assert content["versions"]["trl"] is None and content["versions"]["torch"]


def test_the_file_names_neither_the_machine_nor_its_folders(smoke: Path) -> None:
    text = smoke.read_text()
    assert platform.node() not in text and str(ROOT) not in text and "/tmp/" not in text


def test_a_part_over_its_time_is_killed_and_keeps_what_it_has(tmp_path: Path, gpu_folder: None) -> None:
    import run
    from result_file import ResultFile

    program = tmp_path / "slow.py"
    program.write_text(SLOW_PROGRAM)
    results = ResultFile(tmp_path / "results", "NVIDIA H200", "2026-11-24")
    campaign = run.Campaign(argparse.Namespace(minutes=0, device="cpu"), results, None, tmp_path)
    run.measured(campaign, "kernels", program, [])
    content = json.loads((tmp_path / "results" / "nvidia-h200-2026-11-24.json").read_text())
    assert content["kernels"]["first"] == 1
    assert content["skipped"] == {"a peer": "not installed", "kernels": "stopped after 1 s"}
    assert not _is_alive(content["kernels"]["child"])


def test_tests_are_counted_as_they_end(tmp_path: Path, gpu_folder: None) -> None:
    import run
    from settings import lines_in

    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'unequal'\n"
        "def test_no_gpu(): pytest.skip('no CUDA GPU')\n"
        "def test_no_fixture(unknown): pass\n"
    )
    environment = os.environ | {"GPU_TEST_LINES": str(tmp_path / "lines"), "PYTHONPATH": str(SCRIPT.parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "report_lines", "test_x.py"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    counted = run.counted(lines_in(tmp_path / "lines"))
    assert [counted[name] for name in ("passed", "failed", "skipped")] == [1, 2, 1]
    bad = next(reason for test, reason in counted["failures"].items() if test.endswith("test_bad"))
    assert "unequal" in bad


def test_flops_are_those_of_the_paper(gpu_folder: None) -> None:
    from shapes import config_of, flops_per_token

    config, attention = config_of("Llama-3.2-1B", small=False), 12 * 16 * 32 * 64 * 4096
    assert flops_per_token(config, "full", 4096, 16) == 6 * LLAMA_WEIGHTS + attention
    assert flops_per_token(config, "lora", 4096, 16) == 4 * LLAMA_WEIGHTS + 6 * LLAMA_LORA + attention


def test_the_launchers_recipe_is_one(tmp_path: Path, gpu_folder: None) -> None:
    from settings import Run, Settings
    from train_bench import recipe_of

    (tmp_path / "model").mkdir()
    (tmp_path / "train.jsonl").write_text('{"text": "w2 w3"}\n')
    for method, loss in (("lora", "fused"), ("full", "plain")):
        asked = Run("launcher", "Llama-3.2-1B", method, loss)
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe_of(asked, tmp_path, tmp_path / "out", Settings(512))))
        assert recipe.load(tmp_path / "recipe.yaml").method == method


def test_without_a_gpu_it_says_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, tmp_path / "results"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "results").exists()
    assert "no CUDA GPU" in done.stderr and "--smoke" in done.stderr


def test_a_full_folder_is_refused(tmp_path: Path, gpu_folder: None) -> None:
    from result_file import MOST_FILES, ResultFile

    for number in range(MOST_FILES):
        (tmp_path / f"{number}.json").touch()
    with pytest.raises(FileExistsError, match="take another folder"):
        ResultFile(tmp_path, "NVIDIA H200", "2026-11-24")


@pytest.fixture
def gpu_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


def _is_alive(pid: int, seconds: float = 10) -> bool:
    """Whether it lives on: one that was killed is given time to end. A zombie whose parent is gone counts as dead."""
    status, deadline = Path(f"/proc/{pid}/status"), time.monotonic() + seconds
    while alive := status.exists() and "State:\tZ" not in status.read_text():
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return alive
