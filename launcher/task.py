"""What the machinery asks a task, without importing torch: `TRAITS` in launcher/tasks/<name>/__init__.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Truncation = Literal["error", "drop", "truncate", "split"]


class LossChoice(Protocol):
    """How a fused loss goes through the vocabulary; as text, with why."""

    @property
    def extra_bytes(self) -> int: ...  # beyond its inputs and the gradients that it returns


LossWay = Callable[[int, str, str, str], LossChoice]  # from tokens a micro-batch, precision, model_dtype and device


class LossPlan(NamedTuple):
    """What `objective.plan_loss` of a task says of its loss: the name, why it is this one, how a fused one is computed, how often a
    row goes through the model, and whether rows of a micro-batch are mixed."""

    name: str
    reason: str
    way: LossWay | None = None
    passes: int = 1
    mixes_rows: bool = False


@dataclass(frozen=True)
class Traits:
    """`auto_class`: of transformers. `pipeline_tag`: under which the hub lists such models. `formats`: of data
    (launcher/data/formats), the likeliest first.

    `metrics` may be asked for under evaluation.metrics; `default_metrics` are measured where a recipe asks for none;
    `generated_metrics` need generated answers. `data_keys`: keys of `data` that this task reads and others may not.
    `reads`: what one input of a prediction is; rows: several columns together. `text_column`: what a text by itself is called,
    where that is not the first column of the likeliest format. `on_truncate`: where the recipe does not say.
    `label_column`: the column of prepared rows whose values are the labels, for tasks that have labels. `has_new_head`: the
    output layers are learned for this data, so an adapter trains them in full. `least_labels`: with fewer, nothing is to be told
    apart. `unit`: what is counted as seen, the lengths of rows for tokens and rows otherwise. `target_names`: of a batch, what
    the model is not given; `output_names`: of the model's output, what is compared when an export is proven. `crops_pictures`:
    an image processor may cut off the borders of a picture, since places in it do not matter. `fast_tokenizer`: only one that
    knows where in the text a token stands will do. `has_label_per_row`: rows can be drawn by their label. `augments`: what
    data.augment may change.
    """

    auto_class: str
    pipeline_tag: str
    formats: tuple[str, ...]
    metrics: tuple[str, ...]
    default_metrics: tuple[str, ...]
    generated_metrics: tuple[str, ...] = ()
    data_keys: tuple[str, ...] = ("max_length", "on_truncate")
    processor: Literal["tokenizer", "image_processor", "feature_extractor"] = "tokenizer"
    fast_tokenizer: bool = True
    reads: Literal["text", "image", "audio", "rows"] = "rows"
    text_column: str | None = None
    on_truncate: Truncation = "truncate"
    label_column: str | None = None
    least_labels: int = 2
    has_new_head: bool = False
    unit: str = "tokens"
    target_names: tuple[str, ...] = ("labels",)
    output_names: tuple[str, ...] = ("logits",)
    peft_task_type: str | None = None
    crops_pictures: bool = True
    has_label_per_row: bool = False
    augments: Literal["texts", "pictures"] | None = None

    @property
    def packs(self) -> bool:
        """Whether several rows may share a sequence."""
        return "packing" in self.data_keys
