"""What all tests share: no network, a cache of their own, and one tiny model with data, made once a session."""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads that wait without spinning: several small processes share few cores here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
ROOT = Path(__file__).parent.parent
for folder in (ROOT, ROOT / "kernels"):
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])

import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import tiny  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data of the tests goes to a folder that is thrown away."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a two-layer Llama and 22 conversations of uneven length; change it by overrides."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LoRA run of six steps that has been trained, exported and proven. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("run") / "finished"
    assert (
        tiny.train(
            recipe, f"output_dir={folder}", "checkpoint.save_steps=2", "evaluation.eval_steps=3", "export.verify=true"
        )
        == 0
    )
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe under method qlora, whose model is as wide as a block of 4-bit weights."""
    import quantized

    return quantized.make(tmp_path_factory.mktemp("qlora"))


@pytest.fixture(scope="session")
def quantized_checkpoint(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `wide`, stored in nf4 without double quantisation."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = shutil.copytree(wide.parent / "model", tmp_path_factory.mktemp("stored") / "nf4")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).save_pretrained(folder)
    return folder


@pytest.fixture
def proof_in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same proof without the seconds that a fresh process takes to import."""
    from launcher import export, proof

    def prove(folder: Path, proof_folder: Path) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            proof.main(folder, proof_folder)
        (proof_folder / "verdict.json").write_text(said.getvalue())
        return json.loads(said.getvalue())

    monkeypatch.setattr(export, "prove", prove)
    yield
