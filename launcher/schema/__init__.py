"""The sections of a recipe: every key with its type, its default and one line that says what it does.

All are frozen, refuse keys that they do not know, and convert nothing: `"10"` is not a number and `1` is not `true`.
The sections `adapter`, `optimizer` and `loss` belong to parts and are described there. Nothing here imports torch.
"""

from typing import Any, Literal

from pydantic import Field

from launcher.schema.data import Data as Data
from launcher.schema.data import Source as Source
from launcher.schema.models import Model
from launcher.schema.models import Quantization as Quantization
from launcher.schema.models import Tokenizer as Tokenizer
from launcher.schema.running import Checkpoint, Distributed, Export, Logging, Slurm
from launcher.schema.running import Evaluation as Evaluation
from launcher.schema.stages import GradualUnfreezing, LinearProbe
from launcher.schema.stages import Stage as Stage
from launcher.schema.stages import StageData as StageData
from launcher.schema.stages import StageTraining as StageTraining
from launcher.schema.sweep import Dimension as Dimension
from launcher.schema.sweep import Sweep as Sweep
from launcher.schema.training import Regularization, Scheduler, Training
from launcher.schema.values import Selectors, Text
from launcher.section import Section


class Sections(Section):
    """All keys of a recipe; `recipe.Recipe` adds where each came from."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Text = ""
    """Name of the run; the recipe file's own name when not given."""
    task: str
    """What is learned: a folder in launcher/tasks."""
    method: str
    """Which weights are learned: a file in launcher/adapters."""
    seed: int = Field(default=42, ge=0)
    """Every random choice follows from it."""
    output_dir: Text | None = None
    """Run folder, relative to the current folder; null: runs/<name>-<time>."""
    extends: str | None = None
    """A recipe to start from, relative to this file: keys given here win, lists replace."""
    model: Model = Model()
    """The base model."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer."""
    adapter: Any = Section()
    """Options of the method."""
    quantization: Quantization | None = None
    """Storage of the base weights under method: qlora."""
    data: Data = Data()
    """Data."""
    training: Training = Field(default_factory=lambda: Training.model_validate({}))
    """Length, batch and numerics."""
    loss: Any = Section()
    """Options of the task's loss."""
    optimizer: Any = Section()
    """The optimizer by name, and its options."""
    scheduler: Scheduler = Scheduler()
    """Learning-rate schedule."""
    regularization: Regularization = Regularization()
    """Penalties and averages."""
    trainable: Selectors | None = None
    """Of what the method trains, only this: head, embeddings, layers[:6], or patterns of parameters' names; null: all."""
    freeze: Selectors = ()
    """What is not trained, in the same words."""
    stages: tuple[Stage, ...] = ()
    """Trainings one after the other, with their own parameters, length, learning rate, schedule, data and loss."""
    linear_probe_then_finetune: LinearProbe | None = None
    """In place of stages: first the head alone (Kumar et al., arXiv:2202.10054)."""
    gradual_unfreezing: GradualUnfreezing | None = None
    """In place of stages: a layer more in each (Howard and Ruder, arXiv:1801.06146), at last all."""
    distributed: Distributed = Distributed()
    """Processes."""
    evaluation: Evaluation = Evaluation()
    """Evaluation."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints."""
    export: Export = Export()
    """Export."""
    logging: Logging = Logging()
    """Trackers."""
    sweep: Sweep | None = None
    """Values to try, for `launcher sweep`."""
    slurm: Slurm | None = None
    """Cluster job."""
