"""What is trained: the same for every provider."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One measurement. `loss`: fused (never all logits), plain (all logits), liger or own (TRL with and without liger-kernel)."""

    provider: str
    shape: str
    method: str
    loss: str

    @property
    def name(self) -> str:
        return f"{self.shape} {self.method} {self.loss}, {self.provider}"


@dataclass(frozen=True)
class Settings:
    """Rows are full to the last token, one document each, so that no provider has less to do than another."""

    vocab_size: int
    device: str = "cuda"
    small: bool = False
    rows_per_step: int = 2
    tokens_per_row: int = 4096
    steps: int = 16
    steps_left_out: int = 4
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    lora_r: int = 16
    lora_alpha: int = 32
    gradient_checkpointing: bool = False
    packing: bool = True
    seed: int = 0

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.tokens_per_row


def to_words(s: Settings, runs: list[Run]) -> list[str]:
    return [json.dumps(asdict(s)), json.dumps([asdict(run) for run in runs])]


def from_words(settings: str, runs: str) -> tuple[Settings, list[Run]]:
    return Settings(**json.loads(settings)), [Run(**run) for run in json.loads(runs)]


def append(path: Path, line: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def lines_in(path: Path) -> list[dict]:
    """The whole lines of a file that is still being written, or none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
