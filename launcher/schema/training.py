"""How long, how fast and with what against over-fitting."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from launcher.schema.values import EveryStepsOrShare, Positive, Probability, StepsOrShare
from launcher.section import Section, freeze


class Training(Section):
    """Length, batch and numerics of the training."""

    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training data; 1.0 unless max_steps is given."""
    max_steps: Positive | None = None
    """Optimizer steps, in place of num_train_epochs."""
    global_batch_size: Positive | None = None
    """Rows per optimizer step over all processes. Give two of these three; the third is computed."""
    per_device_train_batch_size: Positive | None = None
    """Rows per forward pass of one process."""
    gradient_accumulation_steps: Positive | None = None
    """Forward passes per optimizer step."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    gradient_checkpointing_interval: Positive = 1
    """Recompute only every so many layers, beginning with the first: 1 is all of them, 2 is half."""
    activation_offloading: bool = False
    """Keep what recomputed layers start from, their inputs, in CPU memory until the backward pass needs it."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Longer gradients are scaled to this norm; null does not clip."""

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_unless_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("max_steps") is None and values.get("num_train_epochs") is None:
            return {**values, "num_train_epochs": 1.0}
        return values


class Scheduler(Section):
    """How the learning rate moves over the steps."""

    name: Literal[
        "constant",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "exponential",
        "step",
        "inverse_sqrt",
        "one_cycle",
        "reduce_on_plateau",
        "wsd",
    ] = "cosine"
    """Shape after the warmup."""
    warmup_steps: StepsOrShare = 0
    """Steps of warmup, linear but for one_cycle; below 1: a share of all steps."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Last learning rate as a share of the first."""
    decay_steps: StepsOrShare | None = None
    """Steps of the final decay of wsd; below 1: a share of all steps; null: 0.2."""
    num_cycles: Positive | None = None
    """Cycles of cosine_with_restarts; null: 2."""
    power: Annotated[float, Field(gt=0)] | None = None
    """Exponent of polynomial; null: 2."""
    step_size: EveryStepsOrShare | None = None
    """Steps between two falls of step; below 1: a share of all steps; null: a third."""
    gamma: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Factor of a fall of step and reduce_on_plateau; null: 0.1."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Evaluations without a better metric_for_best_model, or eval/loss, that reduce_on_plateau waits for; null: 2."""
    timescale: Positive | None = None
    """Steps after which inverse_sqrt has fallen to 0.71; null: warmup_steps."""


class Regularization(Section):
    """Penalties and averages on top of the loss."""

    l1: float = Field(default=0.0, ge=0)
    """Factor of the sum of magnitudes of all trained weights, norms and biases aside, that each step adds to the loss."""
    group_lasso: float = Field(default=0.0, ge=0)
    """Factor of the lengths of the columns of the head's weights, that each step adds: an input shrinks as a whole."""
    dropout: Probability | Annotated[dict[str, Probability], AfterValidator(freeze)] | None = None
    """Of all dropout in the model, or {pattern of the configuration's fields: probability}; null keeps the model's own."""
    neftune_noise_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Noise on the embeddings of tokens while training (arXiv:2310.05914, which takes 5); 0 is none."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the trained weights, which is evaluated, saved and exported in their place; usually 0.99 to
    0.9999. It starts lower: (1 + n) / (10 + n) after n steps, until that is more."""
