"""What a run ran on and with: environment.json."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from launcher import __version__
from launcher.data.digest import file_digest
from launcher.plan import Plan
from launcher.recipe import Recipe

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "deepspeed",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
)


def describe(recipe: Recipe, plan: Plan, prepared: Any) -> dict[str, Any]:
    """Versions, hardware, commit, digests of data and model, and the command."""
    return {
        "versions": {"launcher": __version__, "python": platform.python_version(), **versions()},
        "hardware": {
            "host": socket.gethostname(),
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "world": {"nodes": plan.nodes, "processes": plan.world_size},
        "commit": _commit(),
        "data": [
            {"path": source.path, "rows": len(rows), "digest": rows.digest, "counts": rows.counts}
            for listed, joined in ((recipe.data.train, prepared.train), (recipe.data.eval, prepared.eval))
            for source, rows in zip(listed, joined.sources if joined else (), strict=False)
        ],
        "model": {"name_or_path": recipe.model.name_or_path or "model.init", "digest": _model_digest(recipe)},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def versions() -> dict[str, str]:
    """Those of the packages that take part, as installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The commit of a checkout of the launcher; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _model_digest(recipe: Recipe) -> str | None:
    """Of a local folder's weights; a hub model is known by its name and revision."""
    folder = Path(recipe.model.name_or_path or "")
    weights = sorted(folder.glob("*.safetensors")) if recipe.model.name_or_path else []
    return " ".join(file_digest(path)[:16] for path in weights) or recipe.model.revision
