"""Random rows of every kind, full of what breaks formats, and which of them each format can hold: said here once more, apart
from the writers."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from tiny_pictures import png
from written import put, rows, source

from launcher.data.convert import LIKELIEST, Outcome, convert
from launcher.data.formats.tokens import TAG
from launcher.data.target import Target

Row = dict[str, Any]
TEXTS = [
    *(
        'a "quoted" word',
        "comma, comma;semicolon",
        "tab\there",
        "line\nend",
        "\r\n",
        "carriage\rreturn",
        "",
        " blanks at both ends  ",
    ),
    *(
        "42",
        "-0.0",
        "1e5",
        "null",
        "true",
        "NaN",
        "=SUM(A1)",
        '["x"',
        "['a', 'b'",
        "\ufeffmark",
        "\u2028line\u2029paragraph",
    ),
    *(
        "\x0b\x0c\x1c\x85",
        "emoji 👩‍👩‍👧",
        "中文，文本",
        '\'single\' ""double"" "',
        "\\n back\\slash",
        "# comment",
        "\x00",
        "<b>&amp;</b>",
    ),
    *("x" * 3_000, "\u3000", "O", "-", "{'a': 1}", "e\u0301", "_"),
]
WORDS = [text for text in TEXTS if text]
LABELS: list[Any] = [*(text for text in WORDS if text.strip()), 1, 0, -7, 2**70, 0.25, 1.0, True, False]
FOLDERS = ["cat", "Dog", "a b", "ü", "7"]
FOLDER_KINDS = ("image_folder", "mask_folder", "audio_folder", "voc")
SUFFIX = {"conll": ".conll", "conllu": ".conllu", "squad": ".json", "coco": ".json"}


def some(draw: random.Random, values: list[Any], least: int = 0) -> list[Any]:
    return draw.choices(values, k=draw.randint(least, 5))


def made(kind: str, folder: Path, draw: random.Random) -> list[Row]:
    """Rows of one kind; every text of TEXTS is in one of them."""
    make = MAKERS[kind]
    return [make(draw, text, folder / f"{number:03}", number) for number, text in enumerate(TEXTS)]


def picture(width: int, height: int, shade: int = 0, **options: Any) -> bytes:
    return png(np.full((height, width, 3), shade, np.uint8), **options)


def _picture(path: Path, number: int) -> str:
    return str(put(path.parent, f"pictures/{path.name}.png", picture(40, 30, number)))


def _sound(path: Path, number: int) -> str:
    return str(put(path.parent, f"sounds/{path.name}.wav", b"RIFF....WAVE" + bytes([number])))


def _question(draw: random.Random, text: str, path: Path, number: int) -> Row:
    context = draw.choice(TEXTS) + " between " + text
    answers = [{"text": "between", "answer_start": context.index("between")}]
    return {"id": f"q{number}{text[:9]}", "question": text, "context": context, "answers": answers * draw.randint(0, 3)}


def _boxes(draw: random.Random, text: str, path: Path, number: int) -> Row:
    """At the border, with fractions that are exact in binary, or with any."""
    boxes = [[0.0, 0.0, 40.0, 30.0], [1.25, 2.5, 3.75, 4.125], [39.0, 29.0, 1.0, 1.0], [7.0, 8.0, 9.0, 10.0]]
    boxes = [*some(draw, boxes), *([[draw.uniform(0, 20) for _ in range(4)]] if number % 3 == 0 else [])]
    labels = draw.choices([text or "x", "cat", "a b"], k=len(boxes))
    return {"image": _picture(path, number), "size": [40, 30], "boxes": boxes, "labels": labels}


def _messages(draw: random.Random, text: str, path: Path, number: int) -> Row:
    call = {"type": "function", "function": {"name": "f", "arguments": text}}
    turns: list[Row] = [{"role": "user", "content": text}, {"role": "assistant", "content": draw.choice(TEXTS)}]
    turns += [{"role": "assistant", "tool_calls": [call]}] if number % 2 else []
    return {"messages": turns, **({"tools": [{"name": text, "nested": {"a": [number, None]}}]} if number % 3 else {})}


def _tokens(draw: random.Random, text: str, path: Path, number: int) -> Row:
    tokens = [text or "x", *some(draw, WORDS)]
    draw.shuffle(tokens)
    return {"tokens": tokens, "tags": draw.choices(["O", "B-PER", "noun", "NOUN", text.strip() or "O"], k=len(tokens))}


MAKERS = {
    "messages": _messages,
    "prompt_completion": lambda draw, text, path, number: {"prompt": text, "completion": draw.choice(TEXTS)},
    "text": lambda draw, text, path, number: {"text": text},
    "labelled_text": lambda draw, text, path, number: {
        "text": text,
        "text_pair": draw.choice(TEXTS),
        "label": LABELS[number],
    },
    "tagged_tokens": _tokens,
    "question_answers": _question,
    "source_target": lambda draw, text, path, number: {"source": text, "target": draw.choice(TEXTS)},
    "labelled_image": lambda draw, text, path, number: {
        "image": _picture(path, number),
        "label": LABELS[number % len(LABELS)],
    },
    "boxed_image": _boxes,
    "masked_image": lambda draw, text, path, number: {
        "image": _picture(path, number),
        "mask": _picture(path, number + 100),
    },
    "labelled_audio": lambda draw, text, path, number: {
        "audio": _sound(path, number),
        "label": LABELS[number % len(LABELS)],
    },
}


def _texts(row: Row) -> list[str]:
    return [value for value in row.values() if isinstance(value, str)]


def _in_conll(row: Row) -> bool:
    first = row["tokens"][0].startswith("# ") and not TAG.fullmatch(row["tags"][0])
    broken = any(re.search(r"[\t\r\n]", word) for word in row["tokens"] + row["tags"])
    blank = any(not (token + tag).strip() for token, tag in zip(row["tokens"], row["tags"], strict=True))
    return not (first or broken or blank or "-DOCSTART-" in row["tokens"])


def _in_conllu(row: Row) -> bool:
    return not any(re.search(r"[\t\r\n]", word) for word in row["tokens"] + row["tags"]) and "_" not in row["tags"]


def _in_voc(row: Row) -> bool:
    strange = "[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    return not any(re.search(strange, label) or label != label.strip() for label in row["labels"])


FITS = {
    "tsv": lambda row: list(row.values()) != [""] and not any(re.search(r"[\t\r\n]", text) for text in _texts(row)),
    "conll": _in_conll,
    "conllu": _in_conllu,
    "voc": _in_voc,
    "image_folder": lambda row: str(row["label"]) in FOLDERS,
}


def holdable(kind: str, folder: Path, draw: random.Random, formats: tuple[str, ...]) -> list[Row]:
    """Rows that all of these formats hold."""
    found = made(kind, folder, draw)
    if "image_folder" in formats:  # in the order in which folders are read
        found = [{**row, "label": draw.choice(FOLDERS)} for row in found]
        names = sorted(Path(row["image"]).name for row in found)
        found.sort(key=lambda row: row["label"])
        found = [
            {**row, "image": str(Path(row["image"]).with_name(name))} for row, name in zip(found, names, strict=True)
        ]
    return [row for row in found if all(FITS[one](row) for one in formats if one in FITS)]


def path_of(folder: Path, name: str, to: str) -> Path:
    return folder / (name if to in FOLDER_KINDS else name + SUFFIX.get(to, f".{to}"))


def run(given: Path | list[Path], to: str, path: Path, formats: tuple[str, ...] = LIKELIEST, **options: Any) -> Outcome:
    """Convert, and keep the format of the input out of it where the reader finds it out."""
    keys = {name: options.pop(name) for name in ("columns", "format", "media", "header") if name in options}
    inputs = [source(one, **keys) for one in (given if isinstance(given, list) else [given])]
    return convert(inputs, formats, Target(to, path, **options))


def seen(outcome: Outcome) -> list[Row]:
    """The examples of what was written, as every task reads them: labels as texts, files by what is in them, no `id` that a
    row has from its place."""
    options = {"media": outcome.source.media} if outcome.source.media else {}
    return alike(rows(Path(outcome.source.path), str(outcome.source.format), **options))


def alike(examples: list[Row]) -> list[Row]:
    return [{name: _alike(name, value) for name, value in row.items()} for row in examples]


def _alike(name: str, value: Any) -> Any:
    if name in ("image", "mask", "audio"):
        return value if isinstance(value, bytes) else Path(value).read_bytes()
    if name == "label":
        return [_label(one) for one in value] if isinstance(value, list) else _label(value)
    if name == "boxes":
        return [[round(side, 9) for side in box] for box in value]
    return list(value) if name == "size" else value


def _label(value: Any) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    return str(int(value)) if type(value) is float and value == int(value) else str(value)
