"""What is trained and evaluated on."""

from typing import Annotated, Literal

from pydantic import Field

from launcher.data.augment.steps import AugmentStep
from launcher.data.clean.steps import CleanStep
from launcher.schema.values import FrozenMapping, FrozenNames, LabelNames, Positive, Text
from launcher.section import FrozenDict, Section


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
    augment: tuple[AugmentStep, ...] = ()
    """Changes at random of data.train, anew each time a row comes up: [{name: flip}, {name: rotation, degrees: 10}, ...]."""
    sampling: Literal["natural", "balanced"] = "natural"
    """Rows an epoch: each once, times the weight of its source; or as many of each label, rare ones several times."""
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
