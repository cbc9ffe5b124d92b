"""What each of several trials on one machine gets of it: its own GPUs, or its share of the cores."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from launcher import log
from launcher.errors import EnvironmentProblem

VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


def environments(workers: int, nproc: int, given: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """For each trial at a time the variables that its process gets beside those of this one."""
    gpus = visible_gpus(given)
    if gpus:
        return _gpus(gpus, workers, nproc)
    if workers == 1 or THREADS in given:
        return [{} for _ in range(workers)]
    threads = str(max(1, (os.cpu_count() or 1) // (workers * nproc)))
    log.say(f"{workers} trials at a time, {THREADS}={threads} for each process")
    return [{THREADS: threads} for _ in range(workers)]


def _gpus(gpus: list[str], workers: int, nproc: int) -> list[dict[str, str]]:
    if len(gpus) < workers * nproc:
        raise EnvironmentProblem(
            f"{workers} trials at a time of {nproc} processes need {workers * nproc} GPUs, and there are {len(gpus)}",
            fix="give fewer --workers or --nproc",
        )
    shares = [gpus[first * nproc : (first + 1) * nproc] for first in range(workers)]
    for slot, share in enumerate(shares) if workers > 1 else ():
        log.say(f"trials of slot {slot}: GPU {', '.join(share)}")
    return [{VISIBLE: ",".join(share)} for share in shares]


def visible_gpus(given: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs that processes may use, as CUDA_VISIBLE_DEVICES takes them; by nvidia-smi, without torch."""
    if VISIBLE in given:
        return [name.strip() for name in given[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    told = subprocess.run([tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return told.stdout.split() if told.returncode == 0 else []
