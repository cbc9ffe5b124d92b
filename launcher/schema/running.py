"""Processes, evaluation, checkpoints, export, trackers and cluster jobs."""

from typing import Literal

from pydantic import Field

from launcher.schema.values import WEEK_MINUTES, EveryStepsOrShare, FrozenMapping, Positive, Text
from launcher.section import Section


class Distributed(Section):
    """How the work is spread over processes."""

    strategy: Literal["auto", "none", "ddp", "zero1", "zero2", "zero3", "fsdp2"] = "auto"
    """What every process holds; auto: the least sharding that fits the hardware."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where the optimizer state lives."""
    offload_param: Literal["none", "cpu", "nvme"] = "none"
    """Where the parameters live."""
    offload_dir: Text | None = None
    """Folder on a local disk for what is offloaded to nvme."""
    zero_quantized_weights: bool = False
    """ZeRO++: gather the weights as 8-bit numbers (zero3)."""
    zero_quantized_gradients: bool = False
    """ZeRO++: exchange the gradients as 4-bit numbers (zero3)."""
    zero_hpz_partition_size: Positive = 1
    """ZeRO++: keep a second copy of the weights among so many neighbouring ranks, usually the GPUs of a node (zero3)."""
    zero_leaf_modules: tuple[str, ...] | None = None
    """Classes of modules that zero3 gathers as a whole; null: the mixture-of-experts blocks."""
    deepspeed_config: Text | FrozenMapping | None = None
    """More of DeepSpeed's configuration: a JSON file or a mapping. It may add to the recipe, not contradict it."""
    timeout_minutes: float = Field(default=30.0, gt=0, le=WEEK_MINUTES)
    """A process that waits longer for the others stops with an error."""


class Evaluation(Section):
    """When and how data.eval is measured."""

    eval_steps: EveryStepsOrShare | None = None
    """Evaluate every so many steps; below 1: a share of all steps; null: at the start and the end."""
    metrics: tuple[str, ...] | None = None
    """What is measured; null: what is usual for the task."""
    metric_for_best_model: str | None = None
    """eval/<one of metrics>: the best checkpoint by it is kept and exported."""
    greater_is_better: bool | None = None
    """Direction of that metric; null knows it for our own metrics."""
    early_stopping_patience: Positive | None = None
    """Stop after so many evaluations without a better metric_for_best_model."""
    per_device_eval_batch_size: Positive | None = None
    """Rows per forward pass; null takes per_device_train_batch_size."""
    generate_rows: Positive = 64
    """Rows that are answered by generation for the metrics that need answers: token_f1, bleu, rougeL..."""
    max_new_tokens: Positive = 64
    """Longest generated answer in tokens."""
    num_beams: Positive = 1
    """Beams of the search for the likeliest answer; 1 is greedy."""
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab", "flores101", "flores200"] = (
        "13a"
    )
    """How sacrebleu splits words: 13a for languages with spaces, zh, ja-mecab, ko-mecab, char... ROUGE follows it."""


class Checkpoint(Section):
    """When the training is saved."""

    save_steps: EveryStepsOrShare | None = None
    """Save every so many steps; below 1: a share of all steps; null: at the end."""
    save_total_limit: int = Field(default=3, ge=2)
    """Checkpoints to keep; two at least, so that one is whole while the other is written."""


class Export(Section):
    """The plain Hugging Face folder that is left at the end."""

    merge: bool = False
    """Fold the adapter into the base weights."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the exported weights; auto keeps the one they were trained in."""
    verify: bool = True
    """Load the folder again and compare its outputs with the trained model's."""


class Logging(Section):
    """What is written down while training."""

    logging_steps: Positive = 10
    """Steps between two lines."""
    trackers: tuple[str, ...] = ("jsonl", "console")
    """Where the lines go: files in launcher/trackers."""


class Slurm(Section):
    """The job that `launcher submit` asks for."""

    nodes: Positive = 1
    """Machines."""
    gpus_per_node: Positive = 8
    """GPUs, and processes, on each."""
    time: str = "12:00:00"
    """Time limit, hours:minutes:seconds."""
    partition: str | None = None
    """Queue; null takes the cluster's default."""
    account: str | None = None
    """Account to charge; null takes the cluster's default."""
    signal_seconds: Positive = 300
    """Warning time before the limit, in which the run saves itself."""
