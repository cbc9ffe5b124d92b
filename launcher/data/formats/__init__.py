"""The formats of data by name: what a row holds, and how it becomes an example.

To add one, write a function `Cells -> example` and a line here; a format that is not stored as rows also has a `Layout`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from launcher.data.formats.answers import SQUAD, question_answers
from launcher.data.formats.boxes import COCO, VOC, boxed_image
from launcher.data.formats.cells import Cells, Row
from launcher.data.formats.conversations import messages, prompt_completion, text
from launcher.data.formats.images import IMAGE_FOLDER, MASK_FOLDER, labelled_image, masked_image
from launcher.data.formats.layout import Layout
from launcher.data.formats.media import MEDIA
from launcher.data.formats.sounds import AUDIO_FOLDER, labelled_audio
from launcher.data.formats.texts import labelled_text, source_target
from launcher.data.formats.tokens import CONLL, CONLLU, tagged_tokens


@dataclass(frozen=True)
class Format:
    """Columns under our names: `inputs` a row needs, `answers` it needs unless the data is to be predicted."""

    inputs: tuple[str, ...]
    answers: tuple[str, ...]
    example: Callable[[Cells], Row]
    layout: Layout | None = None
    optional: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """The file's names that are not ours, unless a recipe says otherwise."""

    @property
    def all_columns(self) -> tuple[str, ...]:
        return (*self.inputs, *self.answers, *self.optional)

    @property
    def has_media(self) -> bool:
        return bool(set(self.all_columns) & set(MEDIA))


FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), (), messages),
    "prompt_completion": Format(("prompt", "completion"), (), prompt_completion),
    "text": Format(("text",), (), text),
    "labelled_text": Format(("text",), ("label",), labelled_text, optional=("text_pair",)),
    "tagged_tokens": Format(("tokens",), ("tags",), tagged_tokens),
    "conll": Format(("tokens",), ("tags",), tagged_tokens, CONLL),
    "conllu": Format(("tokens",), ("tags",), tagged_tokens, CONLLU),
    "question_answers": Format(("question", "context"), ("answers",), question_answers, optional=("id",)),
    "squad": Format(("question", "context"), ("answers",), question_answers, SQUAD, optional=("id",)),
    "source_target": Format(("source",), ("target",), source_target),
    "labelled_image": Format(("image",), ("label",), labelled_image),
    "image_folder": Format(("image",), ("label",), labelled_image, IMAGE_FOLDER),
    "boxed_image": Format(("image",), ("boxes", "labels"), boxed_image, optional=("size",)),
    "coco": Format(("image",), ("boxes", "labels"), boxed_image, COCO),
    "voc": Format(("image",), ("boxes", "labels"), boxed_image, VOC),
    "masked_image": Format(("image",), ("mask",), masked_image),
    "mask_folder": Format(("image",), ("mask",), masked_image, MASK_FOLDER),
    "labelled_audio": Format(("audio",), ("label",), labelled_audio),
    "audio_folder": Format(("audio",), ("label",), labelled_audio, AUDIO_FOLDER, columns={"audio": "file_name"}),
}


def all_columns(formats: Iterable[str]) -> tuple[str, ...]:
    """Our names for the columns of these formats."""
    return tuple(dict.fromkeys(name for one in formats for name in FORMATS[one].all_columns))


def in_words(formats: Iterable[str], labelled: bool = True) -> str:
    """`messages, prompt + completion, text`: the columns of those that are rows, the names of the others."""
    return ", ".join(name if FORMATS[name].layout else " + ".join(needed(name, labelled)) for name in formats)


def needed(name: str, labelled: bool = True) -> tuple[str, ...]:
    """The columns that a row of this format cannot do without."""
    return FORMATS[name].inputs + (FORMATS[name].answers if labelled else ())


def mapping_of(formats: Iterable[str]) -> str:
    """An example of what to write under `columns`: {prompt: ..., completion: ...}."""
    rows = [needed(name) for name in formats if FORMATS[name].layout is None]
    return f"{{{', '.join(f'{name}: ...' for name in max(rows, key=len, default=()))}}}"
