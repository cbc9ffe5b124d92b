"""Trainings that follow each other."""

from typing import Annotated

from pydantic import Field

from launcher.schema.data import Source
from launcher.schema.values import FrozenMapping, Positive, Selectors, Text
from launcher.section import FrozenDict, Section


class StageTraining(Section):
    """How long a stage takes; without either, as long as `training` says."""

    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the stage's training data."""
    max_steps: Positive | None = None
    """Optimizer steps, in place of num_train_epochs."""


class StageData(Section):
    """What a stage is trained on, if not on data.train; with the labels of data.train."""

    train: tuple[Source, ...] | None = None
    """Training data of this stage."""


class Stage(Section):
    """One of several trainings that follow each other. Of what it leaves out, the recipe's own sections hold."""

    name: Text | None = None
    """Name of the stage; null: its number, from 1."""
    trainable: Selectors | None = None
    """What is trained in this stage, as under `trainable` of the recipe."""
    freeze: Selectors | None = None
    """What is not trained in this stage, as under `freeze` of the recipe."""
    training: StageTraining = StageTraining()
    """Its length."""
    data: StageData = StageData()
    """Its data."""
    optimizer: FrozenMapping = FrozenDict()
    """Keys of `optimizer`; its states begin anew with each stage."""
    scheduler: FrozenMapping = FrozenDict()
    """Keys of `scheduler`, which runs over the steps of the stage."""
    loss: FrozenMapping = FrozenDict()
    """Keys of `loss`."""


class LinearProbe(StageTraining):
    """The stage before the training that the recipe describes, in which the head alone is trained."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of that stage; null: the optimizer's."""


class GradualUnfreezing(StageTraining):
    """Stages before the training that the recipe describes: the head alone, then with ever more layers below it."""

    layers_per_stage: Positive = 1
    """Layers that each stage adds, from the top."""
