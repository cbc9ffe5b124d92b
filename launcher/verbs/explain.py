"""Show what a prediction rests on: tokens, pixels or seconds with their attribution, as a page and as numbers.

Integrated gradients, by Captum (pip install 'finetune-launcher[explain]'). An INPUT is what `launcher predict` takes: a text,
a file of rows, a picture, a sound. Writes explanation.html and explanation.json.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, or the folder of an export")
    parser.add_argument("input", metavar="INPUT", help="what to explain a prediction of")
    parser.add_argument(
        "--target",
        metavar="LABEL",
        help="explain this label (default: the predicted one); start or end of an answer; of a model that writes, a text",
    )
    parser.add_argument(
        "--word", metavar="WORD|N", help="of a sentence with tags: whose tag (default: the first that has one)"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="what stands for nothing: of texts mask, pad or zero (default: mask, else pad), of pictures black (default) or mean",
    )
    parser.add_argument("--steps", type=_number, default=50, metavar="N", help="points of the integral (default: 50)")
    parser.add_argument("--batch-size", type=_number, default=8, metavar="N", help="points at once (default: 8)")
    parser.add_argument(
        "--rows", type=_number, default=10, metavar="N", help="of a file, the first N rows (default: 10)"
    )
    parser.add_argument("--columns", default="", metavar="OURS=THEIRS,...", help="columns of the file, as text=review")
    parser.add_argument("--format", help="format of the file (default: found out)")
    parser.add_argument("--header", metavar="NAME,...", help="columns of a csv or tsv file without a header line")
    parser.add_argument(
        "--output", type=Path, default=Path("explanation"), metavar="FOLDER", help="write here (default: explanation)"
    )


def run(args: argparse.Namespace) -> int:
    from launcher import log
    from launcher.explain import explainer, page
    from launcher.predict import Predictor

    log.set_up(0, aside=True)
    folder = Path(args.run)
    export = folder / "export" if (folder / "export").is_dir() else folder
    predictor = Predictor.of(export)
    settings = explainer.Settings(args.target, args.word, args.baseline, args.steps, args.batch_size)
    explainer.insist_on_task(predictor, settings)
    settings = replace(settings, computed=explainer.in_full_precision(predictor))
    log.say(f"computes {settings.computed}")
    found = []
    for where, example, is_text in _examples(args, predictor):
        one = explainer.explain(predictor, where, example, is_text, settings)
        one.record["where"] = where
        for line in page.screen(one, sys.stdout.isatty()):
            print(line)
        print(flush=True)
        found.append(one)
    _write(args.output, page.html(found, args.run), {"run": args.run, "explanations": [one.record for one in found]})
    return 0


def _examples(args: argparse.Namespace, predictor: Any) -> Any:
    """(where, example, whether it is a text of the command line), the first --rows of a file."""
    from launcher import log
    from launcher.explain import GENERATED
    from launcher.explain.explainer import name_of
    from launcher.verbs import predict

    if name_of(predictor) in GENERATED and not os.path.exists(args.input):
        yield "command line", {"text": args.input}, True
        return
    read = predict.examples(argparse.Namespace(**{**vars(args), "inputs": [args.input]}), predictor)
    yield from ((where, example, False) for where, example in islice(read, args.rows))
    if next(read, None) is not None:
        log.say(f"note: {args.input} has more rows than the {args.rows:,} that are explained; see --rows")


def _write(folder: Path, page: str, record: dict[str, Any]) -> None:
    from launcher.errors import StorageError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "explanation.html").write_text(page, encoding="utf-8")
        content = json.dumps(record, ensure_ascii=False, indent=1)
        (folder / "explanation.json").write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the explanation could not be written: {error}", where=str(folder)) from error
    print(folder / "explanation.html", file=sys.stderr)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
