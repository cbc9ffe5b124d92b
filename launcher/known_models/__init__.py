"""Published base models by name: what is known of each, and what follows from its shapes. Read without torch.

`facts.yaml` is written by hand, `models.json` by `count` from it: parameters, and memory as `launcher plan` reckons it.
`choice` filters them, `table` prints them, `small_data` says what few rows ask for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from launcher import shipped

FOLDER = Path(__file__).parent
FACTS, COUNTED = FOLDER / "facts.yaml", FOLDER / "models.json"
METHODS = ("full", "lora", "qlora")


@dataclass(frozen=True)
class Kind:
    """Models that do the same. `task`: the one that memory is reckoned for, by its shipped `recipe` with `changes`; `others`: those
    that such models may do besides, where transformers has the head."""

    title: str
    task: str
    recipe: str
    batch: str
    changes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


_READING = ("text_regression", "token_classification", "question_answering")
_TEXTS = ("training.global_batch_size=16", "training.per_device_train_batch_size=16")
KINDS = {
    "encoder": Kind(
        "Encoders of texts",
        "text_classification",
        "bert_text_classification",
        "16 rows of 128 tokens",
        ("data.max_length=128", *_TEXTS),
        _READING,
    ),
    "decoder": Kind(
        "Decoders",
        "causal_lm",
        "llama3.2_1b_full",
        "1 row of 2,048 tokens, or of as many as the model takes, its layers recomputed",
        ("training.per_device_train_batch_size=1",),
        ("text_classification", *_READING),
    ),
    "seq2seq": Kind(
        "Encoders with decoders",
        "seq2seq_lm",
        "t5_translation",
        "16 rows of 128 tokens",
        ("data.max_length=128", "data.max_target_length=128", *_TEXTS),
    ),
    "picture": Kind("Pictures", "image_classification", "vit_image_classification", ""),
    "detector": Kind("Objects in pictures", "object_detection", "yolos_object_detection", ""),
    "segmenter": Kind(
        "Pixels of pictures", "semantic_segmentation", "segformer_segmentation", "", (), ("image_classification",)
    ),
    "sound": Kind("Sounds", "audio_classification", "wav2vec2_audio_classification", ""),
}


@dataclass(frozen=True)
class Known:
    """`parameters`: of the model for the kind's task, with the head of its configuration. `context`: how much it takes at once, in
    tokens or with a unit. `memory_bytes`: by method, on one GPU with 16-bit products; a method that cannot train it has none.
    `with_activations`: whether these are in there, or only weights, gradients, the optimizer and CUDA.
    """

    name: str
    kind: str
    licence: str
    parameters: int
    context: int | str | None
    tasks: tuple[str, ...]
    memory_bytes: Mapping[str, int]
    with_activations: bool


@cache
def models() -> tuple[Known, ...]:
    """All, by kind, in the order of `facts.yaml`."""
    listed = json.loads(COUNTED.read_text(encoding="utf-8"))["models"]
    return tuple(Known(**{**values, "tasks": tuple(values["tasks"])}) for values in listed)


@cache
def facts() -> dict[str, dict[str, Any]]:
    """Name -> what `facts.yaml` says of a model, with its `kind`."""
    found = yaml.load(FACTS.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {entry["name"]: {**entry, "kind": kind} for kind, entries in found.items() for entry in entries}


def shape(name: str) -> dict[str, Any] | None:
    """The configuration of a known model as `model.init` takes it; None for another."""
    shipped_file = shipped.folder("recipes") / "assets" / "configs" / f"{name.replace('/', '--')}.json"
    if shipped_file.is_file():
        found = json.loads(shipped_file.read_text(encoding="utf-8"))
        return {key: value for key, value in found.items() if not key.startswith("_")}
    config: dict[str, Any] | None = facts().get(name, {}).get("config")
    return config
