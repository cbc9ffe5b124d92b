"""Convert data from one format to another: what is lost is said first, and what is written is read back.

An INPUT is whatever a recipe can name under data.train: a file, a folder, a hub data set. Several become one. Pictures and
sounds stay where they are, and the output names them relative to itself, unless --copy-media copies them.
"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from launcher.data.writers import WRITERS

    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="file, folder, or hub data set")
    parser.add_argument("--to", metavar="FORMAT", help=", ".join(WRITERS))
    parser.add_argument("--output", type=Path, metavar="PATH", help="file or folder that is written")
    parser.add_argument("--task", help="task that the data is for, where that is not plain from the data")
    parser.add_argument("--format", help="format of the input, as in a recipe (default: found out)")
    parser.add_argument(
        "--columns", action="append", default=[], metavar="OURS=THEIRS,...", help="columns of the input: text=review"
    )
    parser.add_argument("--header", metavar="NAME,...", help="columns of csv and tsv files without a header line")
    parser.add_argument(
        "--defaults", action="append", default=[], metavar="OURS=VALUE", help="for rows that lack it: label=[]"
    )
    parser.add_argument("--media", metavar="FOLDER", help="that names of pictures or sounds are relative to")
    parser.add_argument("--split", help="split of a hub data set")
    parser.add_argument("--name", help="configuration of a hub data set")
    parser.add_argument("--copy-media", action="store_true", help="copy pictures and sounds, too")
    parser.add_argument("--allow-loss", action="store_true", help="write what the format can hold, and count the rest")
    parser.add_argument("--on-error", choices=["error", "skip"], default="error", help="rows that cannot be used")
    parser.add_argument("--overwrite", action="store_true", help="replace a target that is there")
    parser.add_argument("--table", action="store_true", help="print what can be converted to what (CONVERSIONS.md)")


def run(args: argparse.Namespace) -> int:
    from launcher import log

    log.set_up(0)
    if args.table:
        from launcher.data import conversions

        print(conversions.page(), end="")
        return 0
    from launcher.data import convert, target

    _insist_on_arguments(args)
    wanted = target.Target(
        to=args.to,
        path=args.output,
        copy_media=args.copy_media,
        allow_loss=args.allow_loss,
        overwrite=args.overwrite,
        skip=args.on_error == "skip",
    )
    outcome = convert.convert([_source(args, given) for given in args.inputs], _formats(args), wanted)
    _tell(outcome, args.to)
    return 0


def _insist_on_arguments(args: argparse.Namespace) -> None:
    from launcher.errors import RecipeError

    missing = [
        name for name, value in (("INPUT", args.inputs), ("--to", args.to), ("--output", args.output)) if not value
    ]
    if missing:
        raise RecipeError(f"{' and '.join(missing)} must be given", fix="see `launcher convert --help`")


def _formats(args: argparse.Namespace) -> tuple[str, ...]:
    """That the input may have, the likeliest first."""
    from launcher import parts
    from launcher.data.convert import LIKELIEST
    from launcher.errors import RecipeError

    if args.task is not None:
        return tuple(parts.load("tasks", args.task).TRAITS.formats)
    if args.format is None and any(Path(given).suffix == ".txt" for given in args.inputs):
        raise RecipeError("a .txt file may be a text or CoNLL", fix="add --format text or --format conll")
    return LIKELIEST


def _source(args: argparse.Namespace, given: str) -> Any:
    from launcher.errors import RecipeError
    from launcher.schema import Source
    from launcher.section import freeze

    pairs = [pair for text in args.columns for pair in text.split(",") if pair]
    keys = {"path": given, "columns": _mapping(pairs, "--columns OURS=THEIRS"), "defaults": _values(args.defaults)}
    keys |= {name: getattr(args, name) for name in ("format", "media", "split", "name")}
    if args.header:
        keys["header"] = args.header.split(",")
    try:
        return Source.model_validate({name: freeze(value) for name, value in keys.items()})
    except ValueError as error:
        raise RecipeError(f"no source of data: {' '.join(str(error).split())}", where=given) from None


def _values(given: list[str]) -> dict[str, Any]:
    import yaml

    from launcher.errors import RecipeError

    values = _mapping(given, "--defaults OURS=VALUE")
    try:
        return {name: yaml.safe_load(text) for name, text in values.items()}
    except yaml.YAMLError as error:
        raise RecipeError(f"--defaults {' '.join(given)} holds no value: {' '.join(str(error).split())}") from None


def _mapping(pairs: list[str], usage: str) -> dict[str, str]:
    from launcher.errors import RecipeError

    for pair in pairs:
        if not all(pair.partition("=")):
            raise RecipeError(f"{pair!r} is not of the form {usage}")
    return dict(pair.partition("=")[::2] for pair in pairs)


def _tell(outcome: Any, to: str) -> None:
    """Rows, what became of them, and what to write into a recipe."""
    from launcher.data.convert import SHOWN, in_words

    facts = outcome.facts
    print(f"{facts.rows:,} rows of {facts.kind} -> {to}: {outcome.written:,} written and read back")
    if outcome.skipped:
        print(f"skipped: {len(outcome.skipped):,} rows that cannot be used")
        for error in outcome.skipped[:SHOWN]:
            print(f"  {error}")
    for name, counts in (("changed", outcome.tally.changed), ("lost", outcome.tally.lost)):
        for line in in_words(counts):
            print(f"{name}: {line}")
    if facts.misplaced:
        print(
            f"note: {facts.misplaced:,} answers do not stand at their answer_start, as before; see fix_answers of data.clean"
        )
    print(_recipe_line(outcome.source))


def _recipe_line(source: Any) -> str:
    """`data: {train: [{path: ..., format: ...}]}`, for a recipe in any folder"""
    path, media = (given and os.path.abspath(given) for given in (source.path, source.media))
    keys = {"path": path, "format": source.format, "media": media}
    inner = ", ".join(f"{name}: {_yaml(value)}" for name, value in keys.items() if value is not None)
    return f"data: {{train: [{{{inner}}}]}}"


def _yaml(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) else json.dumps(text, ensure_ascii=False)
