"""The sections of a recipe: every key with its type, its default and one line that says what it does.

All are frozen, refuse keys that they do not know, and convert nothing: `"10"` is not a number and `1` is not `true`.
The sections `adapter`, `optimizer` and `loss` belong to parts and are described there. Nothing here imports torch.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from launcher.data.clean.steps import CleanStep
from launcher.section import Expect, FrozenDict, freeze
from launcher.section import Section as Section


def _whole_or_share(value: float) -> float:
    if isinstance(value, float) and value >= 1 or value < 0:
        raise ValueError
    return value


def _selector(value: str) -> str:
    """Brackets belong to `layers` alone; in a pattern of names they would mean a set of characters."""
    if "[" in value and (not LAYERS.fullmatch(value) or value == "layers[]"):
        raise ValueError(f"{value} is no selection; write layers[3], layers[-2:] or layers[:6]")
    return value


LAYERS = re.compile(r"layers\[(-?\d+)?(:)?(-?\d+)?\]")
WEEK_MINUTES = 10_080
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
FrozenMapping = Annotated[dict[str, Any], AfterValidator(freeze)]
FrozenNames = Annotated[dict[str, str], AfterValidator(freeze)]
LabelNames = Annotated[dict[str, Text], AfterValidator(freeze)]
Selector = Annotated[Text, AfterValidator(_selector)]
Selectors = tuple[Selector, ...]
StepsOrShare = Annotated[
    int | float,
    AfterValidator(_whole_or_share),
    Expect("a whole number of steps (0 or more), or a share of all steps between 0 and 1"),
]


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError
    return value


EveryStepsOrShare = Annotated[
    int | float,
    AfterValidator(_whole_or_share),
    AfterValidator(_above_zero),
    Expect("a whole number of steps (1 or more), or a share of all steps above 0 and below 1"),
]


class Model(Section):
    """The base model: a hub name, a folder, or a configuration to start from scratch."""

    name_or_path: Text | None = None
    """Hub name or folder of a pretrained model; either this or `init`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    init: Text | FrozenMapping | None = None
    """Start with random weights: path to a config.json, or a mapping with model_type and its fields."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        None
    )
    """Attention backend; null takes sdpa, or eager where the model has no sdpa."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type in which the weights are loaded; auto follows training.precision and the method."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class Tokenizer(Section):
    """The tokenizer, when it is not simply the model's own."""

    name_or_path: Text | None = None
    """Hub name or folder; null takes the model's."""
    chat_template: str | None = None
    """Path to a .jinja file, or the template itself; null takes the tokenizer's."""
    add_tokens: tuple[str, ...] = ()
    """Tokens to add to the vocabulary; the embeddings grow with it."""
    pad_token: str | None = None
    """Token to pad with; null takes the tokenizer's."""


class Quantization(Section):
    """How the frozen base weights are stored under method: qlora."""

    bits: Literal[4, 8] = 4
    """Bits per weight."""
    quant_type: Literal["nf4", "fp4", "int8"] | None = None
    """Format of a weight: nf4 or fp4 in 4 bits, int8 in 8; null: nf4 or int8."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type in which 4-bit layers compute; auto follows training.precision."""
    double_quant: bool | None = None
    """Quantize the scales of 4-bit weights as well; null: yes."""
    skip_modules: tuple[str, ...] = ()
    """Modules that keep their weights as they are, by the end of their names; the output head always does."""


class Source(Section):
    """One data set: a file, a folder or a hub name."""

    path: Text
    """File (jsonl, json, csv, tsv, parquet, txt), folder of such files, or hub name `owner/name`; or as `format` says."""
    format: str | None = None
    """What it holds, one of the task's formats; null finds out from the columns, the suffix or the folder."""
    header: tuple[str, ...] | None = None
    """Column names of csv and tsv files that have no header line."""
    split: str | None = None
    """Split of a hub data set, slices allowed: train[:1%]."""
    weight: float = Field(default=1.0, gt=0)
    """How often its rows are drawn, relative to the other sources."""
    columns: FrozenNames = FrozenDict()
    """Our column name -> the file's: {prompt: question, completion: answer}."""
    defaults: FrozenMapping = FrozenDict()
    """Our column name -> value for rows that leave the column out or hold null: {label: []}."""
    media: Text | None = None
    """Folder that names of pictures or sounds are relative to; null: the data file's own."""
    name: str | None = None
    """Configuration of a hub data set."""


class Data(Section):
    """What is trained and evaluated on, and how rows become tokens."""

    train: tuple[Source, ...] = ()
    """Training data; at least one source."""
    eval: tuple[Source, ...] = ()
    """Evaluation data, never trained on."""
    clean: tuple[CleanStep, ...] = ()
    """Cleaning steps, in the order in which they are done: [{name: trim}, {name: drop_duplicates}, ...]."""
    augment: tuple[FrozenMapping, ...] = ()
    """Augmentation steps."""
    on_error: Literal["error", "skip"] = "error"
    """What to do with a row that cannot be used: stop and name it, or count it, name the first ones and go on."""
    labels: tuple[Text, ...] | LabelNames | None = None
    """Names of the labels in order, or values in the file with names: {"1": world, "2": sports}; null: found in data.train."""
    max_length: Positive = 1024
    """Longest row in tokens."""
    max_target_length: Positive = 128
    """Longest target in tokens, where a source becomes a target; max_length is for the source."""
    source_prefix: str = ""
    """Text before every source, such as "translate English to German: "; models are told so what they are to do."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Longest sound; null: as long as it is, or as the model hears."""
    on_truncate: Literal["error", "drop", "truncate", "split"] | None = None
    """What to do with a longer row; split makes several of it, of plain text or words; null: drop for language models,
    split for words, else truncate."""
    doc_stride: Annotated[int, Field(ge=0)] = 128
    """Tokens that neighbouring windows of a long context share."""
    max_query_length: Positive = 64
    """Longest question in tokens; the end of a longer one is cut off."""
    max_answer_length: Positive = 30
    """Longest answer in tokens that is given."""
    null_score_diff_threshold: float | None = 0.0
    """No answer is given where the score of none exceeds the best answer's by more than this; null: always an answer."""
    image_size: Positive | tuple[Positive, Positive] | None = None
    """Size of a picture as the model sees it: pixels of a side, or [height, width]; null: as the model's processor has it."""
    ignore_index: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Number in a mask whose pixels do not count; null: 255, unless 255 is a label."""
    loss_on: Literal["all", "completion", "assistant"] | None = None
    """Tokens that are learned; null: assistant for messages, completion for prompt_completion, all for text."""
    packing: bool = False
    """Put several rows into one sequence, without letting them see each other."""
    streaming: bool = False
    """Read rows while training instead of preparing them first."""
    cache_dir: Text | None = None
    """Folder for prepared rows, relative to the current folder."""


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


Probability = Annotated[float, Field(ge=0, lt=1)]


class Regularization(Section):
    """Penalties and averages on top of the loss."""

    l1: float = Field(default=0.0, ge=0)
    """Factor of the sum of magnitudes of all trained weights, norms and biases aside, that each step adds to the loss."""
    dropout: Probability | Annotated[dict[str, Probability], AfterValidator(freeze)] | None = None
    """Of all dropout in the model, or {pattern of the configuration's fields: probability}; null keeps the model's own."""
    neftune_noise_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Noise on the embeddings of tokens while training (arXiv:2310.05914, which takes 5); 0 is none."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of the weights."""


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
    sweep: FrozenMapping | None = None
    """Values to try."""
    slurm: Slurm | None = None
    """Cluster job."""
