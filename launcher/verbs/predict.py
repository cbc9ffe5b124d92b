"""Predict with a run's export: texts, data files, pictures or sounds in, one JSON object a line out.

An INPUT is a file or folder of the task's data (jsonl, csv, pictures...), a .txt file with a text a line, a text itself, or `-` for
texts from standard input.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from launcher.errors import DataError, RecipeError, StorageError

Read = tuple[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, or the folder of an export")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what to predict for")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write here (default: standard output)")
    parser.add_argument(
        "--columns", default="", metavar="OURS=THEIRS,...", help="columns of the files, for example text=review"
    )
    parser.add_argument("--format", help="format of the files (default: found out)")
    parser.add_argument("--header", metavar="NAME,...", help="columns of csv and tsv files without a header line")
    parser.add_argument("--batch-size", type=_number, default=16, metavar="N", help="rows at once (default: 16)")
    parser.add_argument(
        "--threshold",
        type=_share,
        metavar="SCORE",
        help="score from which a box, or one of several labels, is found (default: 0.5)",
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write pictures with what was found drawn in")


def run(args: argparse.Namespace) -> int:
    from launcher import log

    log.set_up(0, aside=True)
    from launcher.predict import Drawings, Predictor

    folder = Path(args.run)
    export = folder / "export" if (folder / "export").is_dir() else folder
    predictor = Predictor.of(export, args.threshold)
    drawings = None if args.pictures is None else Drawings(args.pictures, predictor.task)
    answers = predictor.predict(examples(args, predictor), args.batch_size, drawings)
    if args.output is None:
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False), flush=True)
    else:
        _write(args.output, answers)
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score from 0 to 1")
    return value


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def examples(args: argparse.Namespace, predictor: Any) -> Iterator[Read]:
    """(where, example) of each input, as `inputs`, `columns` and `format` of `args` say."""
    from launcher.data.formats import FORMATS

    traits = predictor.task.TRAITS
    column = traits.text_column or FORMATS[traits.formats[0]].inputs[0]
    for given in args.inputs:
        found = None
        if traits.reads == "text" and args.format is None:
            found = _texts(given)
        elif traits.reads in ("image", "audio"):
            found = _media(given, traits.reads)
        if found is not None:
            yield from ((where, {column: one}) for where, one in found)
        elif os.path.exists(given):  # a text may be longer than pathlib takes
            yield from _rows(given, args, traits)
        elif traits.reads == "text" and not _is_file_name(given):
            yield "command line", {column: given}
        else:
            reads = "a text that looks like the name of a file can stand in a .txt file"
            if traits.reads != "text":
                reads = f"{predictor.task.__name__.rpartition('.')[2]} reads files"
            raise RecipeError(f"there is no file {given!r}", fix=reads)


def _texts(given: str) -> Iterator[tuple[str, str]] | None:
    """A text a line, of a .txt file or of standard input (`-`); None for anything else."""
    if given == "-":
        return _lines("standard input", sys.stdin)
    if given.lower().endswith(".txt") and os.path.isfile(given):
        return _lines(given, open(given, encoding="utf-8-sig"))
    return None


def _lines(name: str, stream: TextIO) -> Iterator[tuple[str, str]]:
    number = 0
    with stream as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{name}:{number}", line.strip()
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text: {error.reason}", where=f"{name}:{number + 1}") from None
    if not number:
        raise DataError("holds no text", where=name)


def _media(given: str, kind: str) -> Iterator[tuple[str, str]] | None:
    """A picture or sound, or those that lie in a folder; None for anything else. Folders below are said to be left out."""
    from launcher.data.formats.layout import PICTURES, SOUNDS, files_below
    from launcher.data.formats.media import say_left_out

    suffixes, path = {"image": PICTURES, "audio": SOUNDS}[kind], Path(given)
    if path.is_dir():
        below, others = files_below(path, suffixes)
        files = [file for file in below if file.parent == path]
        if not files:
            return None
        say_left_out(path, [file for file in below if file.parent != path], "lie in folders below")
        say_left_out(path, others, f"have none of the suffixes {', '.join(suffixes)}")
    elif path.is_file() and path.suffix.lower() in suffixes:
        files = [path]
    else:
        return None
    return ((str(file), str(file.absolute())) for file in files)


def _rows(given: str, args: argparse.Namespace, traits: Any) -> Iterator[Read]:
    """Of a file or folder in one of the task's formats."""
    from launcher.data import sources
    from launcher.schema import Source
    from launcher.section import freeze

    columns = dict(pair.partition("=")[::2] for pair in args.columns.split(",") if pair)
    keys = {"path": os.path.abspath(given), "columns": freeze(columns), "format": args.format}
    keys |= {"header": tuple(args.header.split(","))} if args.header else {}
    source = Source.model_validate(keys)
    return sources.examples(source, traits.formats, labelled=False)


def _is_file_name(text: str) -> bool:
    """`reviews.csv`, `./data/new.jsonl`: one word with the suffix of a data file; or no word at all."""
    from launcher.data.readers import READERS

    return not text.strip() or len(text.split()) == 1 and text.lower().endswith((*READERS, ".txt", ".conll", ".conllu"))


def _write(path: Path, answers: Iterator[dict[str, Any]]) -> None:
    """Beside it first, so that half of the answers are never taken for all."""
    staged = path.with_name(f".{path.name}.partial")
    try:
        with staged.open("w", encoding="utf-8") as lines:
            number = 0
            for answer in answers:
                lines.write(json.dumps(answer, ensure_ascii=False) + "\n")
                number += 1
        os.replace(staged, path)
    except OSError as error:
        raise StorageError(f"the answers could not be written: {error}", where=str(path)) from error
    finally:
        staged.unlink(missing_ok=True)
    print(f"{path}: {number:,} answers", file=sys.stderr)
