"""A wheel works from any folder, in an environment that has never seen the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its other libraries are those of the environment that tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    bare = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }  # else pip finds the checkout there
    subprocess.run(build, check=True, cwd=folder, env=bare, capture_output=True)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "zz-others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True, env=bare, capture_output=True
    )
    return folder / "env" / "bin"


def run(elsewhere: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{elsewhere}:/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(cwd / "cache")}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_launcher_is_the_wheels(elsewhere: Path, tmp_path: Path) -> None:
    code = "import launcher, launcher_kernels; print(launcher.__file__, launcher_kernels.__file__)"
    done = run(elsewhere, tmp_path, "python", "-c", code)
    assert str(ROOT) not in done.stdout and done.stdout.count("site-packages") == 2, done.stderr


def test_a_recipe_is_copied_and_checked_in_an_empty_folder(elsewhere: Path, tmp_path: Path) -> None:
    listed = run(elsewhere, tmp_path, "launcher", "recipes")
    assert listed.returncode == 0 and "gpt_lora" in listed.stdout, listed.stderr
    copied = run(elsewhere, tmp_path, "python", "-m", "launcher", "recipes", "copy", "gpt_lora", ".")
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "assets" / "python_gpt" / "model.safetensors").exists()
    checked = run(elsewhere, tmp_path, "launcher", "check", "gpt_lora.yaml")
    assert checked.returncode == 0 and "fine" in checked.stdout, checked.stderr


def test_the_wheel_carries_what_is_no_python(elsewhere: Path) -> None:
    shipped = next(elsewhere.parent.glob("lib/python*/site-packages/launcher/_shipped"))
    assert (shipped / "slurm" / "train.sbatch").exists()
    assert (shipped / "recipes" / "assets" / "configs" / "Qwen--Qwen3-8B.json").exists()
    assert list(shipped.parent.glob("explain/templates/*.html"))
    assert {"facts.yaml", "models.json"} <= {path.name for path in (shipped.parent / "known_models").iterdir()}
    assert list(shipped.parent.glob("report/templates/*.html"))
