"""What all tests share: no network, a cache of their own, and one tiny model with data, made once a session."""

import os
import sys
from pathlib import Path

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
