"""Predict with a run's export: texts, data files, pictures or sounds in, one JSON object a line out.

An INPUT is a file or folder of the task's data (jsonl, csv, pictures...), a .txt file with a text a line, or a text itself.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, or the folder of an export")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what to predict for")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write here (default: standard output)")
    parser.add_argument(
        "--columns", default="", metavar="OURS=THEIRS,...", help="columns of the files, for example text=review"
    )
    parser.add_argument("--format", help="format of the files (default: found out)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows at once (default: 16)")
    parser.add_argument(
        "--threshold",
        type=_share,
        metavar="SCORE",
        help="score from which a box, or one of several labels, is found (default: 0.5)",
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write pictures with what was found drawn in")


def run(args: argparse.Namespace) -> int:
    from launcher import log

    log.set_up(1)
    from launcher.predict import Drawings, Predictor

    folder = Path(args.run)
    export = folder / "export" if (folder / "export").is_dir() else folder
    predictor = Predictor.of(export, args.threshold)
    drawings = None if args.pictures is None else Drawings(args.pictures, predictor.task)
    answers = predictor.predict(_examples(args, predictor), args.batch_size, drawings)
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


def _examples(args: argparse.Namespace, predictor: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    from launcher.data import sources
    from launcher.data.formats import FORMATS
    from launcher.data.formats.images import PICTURES
    from launcher.data.formats.sounds import SOUNDS
    from launcher.errors import RecipeError
    from launcher.schema import Source

    traits = predictor.task.TRAITS
    suffixes = {"image": PICTURES, "audio": SOUNDS}.get(traits.reads, ())
    input_column = traits.text_column or FORMATS[traits.formats[0]].inputs[0]
    columns = dict(pair.partition("=")[::2] for pair in args.columns.split(",") if pair)
    for given in args.inputs:
        path = Path(given)
        if traits.reads == "text" and path.suffix == ".txt" and path.is_file():
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            yield from (
                (f"{given}:{number}", {input_column: line}) for number, line in enumerate(lines, 1) if line.strip()
            )
        elif path.suffix.lower() in suffixes and path.is_file():
            yield given, {input_column: str(path.resolve())}
        elif path.is_dir() and (files := [file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes]):
            yield from ((str(file), {input_column: str(file.resolve())}) for file in files)
        elif path.exists():
            source = Source.model_validate({"path": str(path.absolute()), "columns": columns, "format": args.format})
            yield from sources.examples(source, traits.formats, labelled=False)
        elif traits.reads == "text" and not _is_file_name(given):
            yield "command line", {input_column: given}
        else:
            reads = f"{predictor.task.__name__.rpartition('.')[2]} reads files"
            if traits.reads == "text":
                reads = "a text that looks like the name of a file can stand in a .txt file"
            raise RecipeError(f"there is no file {given}", fix=reads)


def _is_file_name(text: str) -> bool:
    """`reviews.csv`, `./data/new.jsonl`: one word with the suffix of a data file."""
    from launcher.data import readers

    return len(text.split()) == 1 and Path(text).suffix in (*readers.READERS, ".conll", ".conllu")


def _write(path: Path, answers: Iterator[dict[str, Any]]) -> None:
    """Beside it first, so that half of the answers are never taken for all."""
    import os

    from launcher.errors import StorageError

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
