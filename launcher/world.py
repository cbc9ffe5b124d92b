"""Where a run takes place."""

import importlib.util
import os
from dataclasses import dataclass, field


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
