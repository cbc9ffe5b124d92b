"""What a task is given beside a row: to make rows (`Tools`), and to make batches, losses and measurements of them (`Context`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from launcher.data.labels import Labels
from launcher.schema import Data


@dataclass
class Tools:
    """`processor`: a tokenizer, an image processor or a feature extractor. `labels`: those that a row may have; None: any.

    `labelled` is false where rows are to be predicted. `counts` is written: rows read, kept, dropped, truncated...
    """

    processor: Any
    data: Data
    on_truncate: str
    counts: dict[str, int]
    labels: Labels | None = None
    labelled: bool = True
    memory: dict[str, Any] = field(default_factory=dict)  # what a task must know of the rows before
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:  # pictures and sounds are read on several threads
            self.counts[name] = self.counts.get(name, 0) + number


@dataclass(frozen=True)
class Context:
    """`head`: values of the model's configuration that follow from the data: id2label, problem_type...

    `label_counts`: how often each label occurs in the training data. `threshold`: of a score, from which a box, or one of
    several labels, is said.
    """

    processor: Any
    data: Data
    pad_token_id: int = 0
    labels: Labels | None = None
    label_counts: tuple[int, ...] = ()
    head: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = 0.5
