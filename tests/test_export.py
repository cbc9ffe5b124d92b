"""An export is the trained model, or it is not published: proven by a process that knows nothing of the launcher."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from launcher import export, proof
from launcher.__main__ import main


@pytest.fixture(scope="module")
def proven(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of a LoRA, a merged LoRA and a full run, each exported with its proof."""
    folder = tmp_path_factory.mktemp("export")
    options = {
        "lora": [],
        "merged": ["export.merge=true"],
        "full": ["method=full", "adapter=null", "optimizer.learning_rate=1e-3"],
    }
    for name, words in options.items():
        shared = ["export.verify=true", f"output_dir={folder / name}", "evaluation.metrics=[loss]"]
        assert tiny.train(recipe, *shared, *words) == 0
    return {name: folder / name for name in options}


@pytest.mark.parametrize("name", ["lora", "merged", "full"])
def test_a_true_export_is_proven_and_published(proven: dict[str, Path], name: str) -> None:
    verdict = json.loads((proven[name] / "proof" / "verdict.json").read_text())
    assert verdict["ok"] and verdict["largest_logit_difference"] < 1e-4
    assert (proven[name] / "export" / "README.md").read_text().startswith("---\nlibrary_name:")
    assert not list(proven[name].glob(".export-*"))


def test_a_user_loads_the_exports_with_plain_libraries(proven: dict[str, Path]) -> None:
    """Merged and unmerged give the same logits; neither is the base model's."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(proven["lora"] / "export")
    ids = tokenizer("<|user|> the cat sees the dog <|end|>", return_tensors="pt")["input_ids"]
    merged = AutoModelForCausalLM.from_pretrained(proven["merged"] / "export")(ids).logits
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained(proven["lora"] / "export")
    assert torch.allclose(adapted(ids).logits, merged, atol=1e-4)
    with adapted.disable_adapter():
        assert not torch.allclose(adapted(ids).logits, merged, atol=1e-2)


DAMAGE = {
    "negated": lambda t: -t,
    "one bit of one number": lambda t: _flip_last_bit(t),
    "empty": lambda t: t[:0],
    "another shape": lambda t: t[:-1],
    "NaN": lambda t: torch.full_like(t, float("nan")),
    "missing": lambda t: None,
}


def _flip_last_bit(tensor: torch.Tensor) -> torch.Tensor:
    flipped = tensor.clone()
    flipped.view(torch.int32).view(-1)[0] ^= 1
    return flipped


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_damaged_export_is_not_proven(proven: dict[str, Path], tmp_path: Path, name: str, damage: str) -> None:
    """In this process, since only the loading and comparing is under test; the fresh process has its own test."""
    run = shutil.copytree(proven[name], tmp_path / "run")
    (path,) = (run / "export").glob("*.safetensors")
    tensors = load_file(path)
    victim = sorted(tensors)[-1]
    damaged = DAMAGE[damage](tensors.pop(victim))
    save_file(tensors if damaged is None else tensors | {victim: damaged.contiguous()}, path, {"format": "pt"})
    try:
        code = proof.main(run / "export", run / "proof")
    except RuntimeError:
        code = 1  # PEFT refuses another shape by itself; the fresh process then ends with its error
    assert code == 1


def test_the_fresh_process_notices_and_does_not_know_the_launcher(proven: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(proven["lora"], tmp_path / "run")
    path = run / "export" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if "lora_B" in n)
    save_file(tensors | {name: -tensors[name]}, path, {"format": "pt"})
    verdict = export.prove(run / "export", run / "proof")
    assert not verdict["ok"] and name.split(".lora_B")[0].split(".")[-1] in " ".join(verdict["problems"])
    assert "launcher" not in {line.split()[1].split(".")[0] for line in _imports()}


def _imports() -> list[str]:
    lines = Path(proof.__file__).read_text().splitlines()
    return [line for line in lines if line.lstrip().startswith(("import ", "from "))]


def test_a_rejected_export_is_not_published(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "prove", lambda *_: {"ok": False, "problems": ["made up"]})
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", "export.verify=true", "training.max_steps=3") == 88
    assert not (tmp_path / "run" / "export").exists()
    assert (tmp_path / "run" / "export.rejected").exists()


@pytest.mark.parametrize(("number", "code", "said"), [(15, 85, "was stopped"), (9, 88, "could not be proven")])
def test_a_proof_that_is_ended_says_nothing_about_the_export(
    proven: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, number: int, code: int, said: str
) -> None:
    run = shutil.copytree(proven["lora"], tmp_path / "run")
    (tmp_path / "ended.py").write_text(f"import os; os.kill(os.getpid(), {number})")
    monkeypatch.setattr(proof, "__file__", str(tmp_path / "ended.py"))
    assert main(["export", str(run)]) == code
    assert said in capsys.readouterr().err
    assert (run / "export").is_dir() and (run / "export.rejected").exists() is (number == 9)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_full_disk_leaves_the_export_that_is_there(
    proven: dict[str, Path], tmp_path: Path, capsys, name: str
) -> None:
    run = shutil.copytree(proven[name], tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with tiny.full_disk(5_000):
        assert main(["export", str(run)]) == 90
    assert "could not be written: [Errno 27] File too large" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_proof_runs_from_any_folder(proven: dict[str, Path], tmp_path: Path) -> None:
    """And with nothing of ours on the path: a user can check an export years later."""
    command = [sys.executable, "-P", proof.__file__, str(proven["full"] / "export"), str(proven["full"] / "proof")]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
