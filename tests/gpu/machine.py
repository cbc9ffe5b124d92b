"""What runs here: run as a program, it prints the GPU; it ends before anything is measured, so it holds no memory of the GPU."""

import importlib.util
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = [
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "peft",
    "pytest",
    "pydantic",
    "datasets",
    "deepspeed",
    "bitsandbytes",
    "trl",
    "liger-kernel",
    "cut-cross-entropy",
]


def missing(*modules: str) -> str | None:
    """`a, b: not installed`, or None where all can be found."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)}: not installed" if absent else None


def versions() -> dict[str, str | None]:
    """None for what is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = None if missing(name.replace("-", "_")) else _version(name)
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return lines[0].partition(":")[2].strip() if lines else platform.machine()


def describe() -> dict:
    import torch

    found = {"gpu": None, "cpu": cpu(), "cores": len(os.sched_getaffinity(0)), "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": gpu.name,
            "memory_gib": round(gpu.total_memory / 2**30, 1),
            "multiprocessors": gpu.multi_processor_count,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
        }
    return found


if __name__ == "__main__":
    print(json.dumps(describe()))
