"""Where a run takes place, and what the program that started this process told it about the others."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.errors import EnvironmentProblem

# Each of these tells of several processes, in words that neither torch nor the launcher listens to.
STARTERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
}
TORCHRUN = (
    "torchrun --nnodes N --node-rank I --nproc-per-node P --master-addr HOST --master-port PORT -m launcher RECIPE"
)


@dataclass(frozen=True)
class World:
    """Where a run takes place. `device` is cpu or cuda; `bf16` says whether the hardware multiplies bf16 quickly.

    `memory_bytes`: of the GPU of a process, None where it is not known or there is none.
    """

    nodes: int = 1
    processes_per_node: int = 1
    device: str = "cpu"
    bf16: bool = False
    cores_per_node: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    memory_bytes: int | None = None
    has_deepspeed: bool = field(default_factory=lambda: importlib.util.find_spec("deepspeed") is not None)

    @property
    def size(self) -> int:
        return self.nodes * self.processes_per_node


def launched(environment: Mapping[str, str]) -> tuple[int, int]:
    """(nodes, processes per node) from torchrun's variables; (1, 1) where one process was started by itself.

    What was started as one of several but does not know it would train alone, beside others that write into the same
    folder: an EnvironmentProblem.
    """
    local = environment.get("LOCAL_WORLD_SIZE") or environment.get(
        "LOCAL_SIZE"
    )  # torchrun's; DeepSpeed's own launcher's
    if "RANK" not in environment:
        _refuse_one_of_several(environment)
        return 1, 1
    expected = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in expected if name not in environment] + ([] if local else ["LOCAL_WORLD_SIZE"])
    if missing:
        raise EnvironmentProblem(f"RANK is set, but not {', '.join(missing)}", fix=f"start with {TORCHRUN}")
    size, per_node = int(environment["WORLD_SIZE"]), int(local or 0)
    if size % per_node:
        raise EnvironmentProblem(
            f"{size} processes, {per_node} of them on this node: the nodes do not have equally many",
            fix="start equally many on each node (--nproc-per-node)",
        )
    return size // per_node, per_node


def _refuse_one_of_several(environment: Mapping[str, str]) -> None:
    for name, starter in STARTERS.items():
        if int(environment.get(name) or 1) > 1:
            raise EnvironmentProblem(
                f"{starter} started {environment[name]} processes ({name}), and each would train alone: RANK is not set",
                fix="use slurm/train.sbatch" if starter == "srun" else f"start with {TORCHRUN}",
            )
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise EnvironmentProblem(
            "accelerate launch was asked for several processes, but started one on each machine, and each would train alone",
            fix="add --multi_gpu, which starts them by torchrun, on CPUs as well; or leave out --num_processes",
        )
    told = [name for name in ("MASTER_ADDR", "WORLD_SIZE") if name in environment]
    if told and int(environment.get("WORLD_SIZE") or 2) > 1:
        raise EnvironmentProblem(
            f"{' and '.join(told)} {'is' if len(told) == 1 else 'are'} set, but not RANK",
            fix=f"start with {TORCHRUN}, or unset {' '.join(told)} to train in one process",
        )
