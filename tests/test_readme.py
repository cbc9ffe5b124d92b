"""The README's commands do what it says: those for a CPU are run, those for GPUs are checked as far as a CPU can."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import parts, recipe
from launcher.__main__ import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as the commands see it, its demo shortened to three steps and a few rows."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    text = (folder / "recipes" / "gpt_lora.yaml").read_text()
    text, found = re.subn(r"num_train_epochs: \S+", "max_steps: 3", text)
    assert found == 1
    (folder / "recipes" / "gpt_lora.yaml").write_text(text.replace("  metrics:", "  generate_rows: 2\n  metrics:"))
    for name, number in (("train", 64), ("eval", 8)):
        path = folder / "recipes" / "data" / f"python_qa_{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:number]))
    return folder


def test_the_two_lines_come_first() -> None:
    first = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    make")]
    assert first == ["make demo", "make test"]


def test_every_command_is_known() -> None:
    """A command that this file neither runs nor checks would rot."""
    for command in COMMANDS:
        assert _kind(command) is not None, command


def test_cpu_commands_run_in_the_order_of_the_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        words = shlex.split(command)
        if _kind(command) == "launcher":
            assert main(words[1:]) == 0, command
        elif _kind(command) == "starter":
            starter = {"accelerate": "accelerate.commands.accelerate_cli", "torchrun": "torch.distributed.run"}[
                words[0]
            ]
            done = subprocess.run(
                [sys.executable, "-m", starter, *words[1:]], capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    runs = sorted(path.parent for path in (folder / "runs").glob("**/attempts.jsonl"))
    assert len(runs) >= 5
    for run in runs:
        ends = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
        assert ends[-1]["exit_code"] == 0 and (run / "report.html").exists() and (run / "export").is_dir()


def test_gpu_commands_name_good_recipes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("chats.jsonl", "held_out.jsonl"):
        shutil.copy("recipes/data/python_qa_eval.jsonl", name)
    commands = [command for command in COMMANDS if _kind(command) in ("gpu", "slurm")]
    assert commands
    for command in commands:
        words = [word for word in shlex.split(command) if word.endswith(".yaml") or re.match(r"[a-z_.0-9]+=", word)]
        recipe.load(words[0], words[1:])


def _kind(command: str) -> str | None:
    """launcher: run in this process; starter: run as it stands; gpu, slurm: checked; set-up: CI does it by `make setup`."""
    words = shlex.split(command)
    on_gpu = "llama" in command or "qwen" in command
    if words[0] == "launcher":
        return "launcher"
    if words[0] in ("accelerate", "torchrun"):
        return "gpu" if on_gpu else "starter"
    if words[0] == "sbatch":
        return "slurm"
    return "set-up" if words[0] in ("python3", "pip") else None


def test_the_plain_version_of_the_textbook_example_runs_and_learns_the_same_labels(tmp_path: Path, monkeypatch) -> None:
    """With a tiny model in place of BERT, on some rows."""
    import tiny_tasks

    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    tiny_tasks.save_bert(tmp_path / "bert")
    part = tmp_path / "recipes" / "data" / "python_topics_train.csv"
    part.parent.mkdir(parents=True)
    part.write_text("".join((ROOT / part.relative_to(tmp_path)).read_text().splitlines(keepends=True)[:65]))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("google-bert/bert-base-uncased", "bert"), {})
    shipped = recipe.load(ROOT / "recipes" / "bert_text_classification.yaml")
    for told in (
        f"lr={shipped.optimizer.learning_rate:.0e}".replace("e-0", "e-"),
        f"max_length={shipped.data.max_length}",
    ):
        assert told in code
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_the_table_of_tasks_names_metrics_that_there_are() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", README, re.M)
    known = {task: parts.load("tasks", task).TRAITS.metrics for task in parts.names("tasks")}
    told = {task: re.findall(r"`(\w+[^_`])`", metrics) for task, metrics in rows if task in known}
    assert set(told) == set(known) - {"causal_lm"}
    for task, names in told.items():
        assert set(names) <= set(known[task]), task
