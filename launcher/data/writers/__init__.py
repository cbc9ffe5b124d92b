"""What a data set can be converted to, by name: the twins of the readers.

To add one, write a `Writer` and a line here; the tests then convert every kind of row to it and back.
"""

from launcher.data.writers.answers import SQUAD
from launcher.data.writers.boxes import COCO, VOC
from launcher.data.writers.folders import AUDIO_FOLDER, IMAGE_FOLDER, MASK_FOLDER
from launcher.data.writers.parquet import PARQUET
from launcher.data.writers.rows import JSON, JSONL
from launcher.data.writers.tables import CSV, TSV
from launcher.data.writers.tokens import CONLL, CONLLU
from launcher.data.writers.writer import Writer

WRITERS: dict[str, Writer] = {
    "jsonl": JSONL,
    "json": JSON,
    "parquet": PARQUET,
    "csv": CSV,
    "tsv": TSV,
    "conll": CONLL,
    "conllu": CONLLU,
    "squad": SQUAD,
    "coco": COCO,
    "voc": VOC,
    "image_folder": IMAGE_FOLDER,
    "mask_folder": MASK_FOLDER,
    "audio_folder": AUDIO_FOLDER,
}


def holding(kind: str) -> list[str]:
    """Names of those that can hold rows of a kind."""
    return [name for name, writer in WRITERS.items() if kind in writer.kinds]
