"""CoNLL and CoNLL-U files: a token and its tag a line, a blank line after each sentence."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from launcher.data.formats.cells import Row
from launcher.data.formats.tokens import TAG
from launcher.data.writers.writer import At, Facts, Writer

BREAKS = re.compile(r"[\t\n\r]")
MARK = "\ufeff"  # a reader takes the first one of a file away
LOST = "tabs and line ends in tokens and tags, which become spaces"


def _one_line(row: Row, at: At) -> Row:
    held = {name: [BREAKS.sub(" ", word) for word in row[name]] for name in ("tokens", "tags")}
    if held["tokens"] != row["tokens"] or held["tags"] != row["tags"]:
        at.lose(LOST)
    return {**row, **held}


def _hold_conll(row: Row, at: At) -> Row | None:
    held = _one_line(row, at)
    first, tag = held["tokens"][0], held["tags"][0]
    if "-DOCSTART-" in held["tokens"]:
        return at.leave_out("with the token -DOCSTART-, which begins a document")
    if first.startswith("# ") and not TAG.fullmatch(tag):
        return at.leave_out("whose first token looks like a comment")
    if any(not (token + word).strip() for token, word in zip(held["tokens"], held["tags"], strict=True)):
        return at.leave_out("with a token and a tag of white space")
    return held


def _hold_conllu(row: Row, at: At) -> Row | None:
    held = _one_line(row, at)
    return at.leave_out("with the tag _, which stands for none") if "_" in held["tags"] else held


def _conll_line(number: int, token: str, tag: str) -> str:
    return f"{token}\t{tag}\n"


def _conllu_line(number: int, token: str, tag: str) -> str:
    """ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC; what is not known is _."""
    return f"{number}\t{token}\t_\t{tag}" + "\t_" * 6 + "\n"


def _sentences(line: Callable[[int, str, str], str]) -> Callable[[Iterable[Row], Path, Facts], None]:
    def write(rows: Iterable[Row], path: Path, facts: Facts) -> None:
        with path.open("w", encoding="utf-8") as text:
            for place, row in enumerate(rows):
                lines = [
                    line(number, *pair) for number, pair in enumerate(zip(row["tokens"], row["tags"], strict=True), 1)
                ]
                is_marked = place == 0 and lines[0].startswith(MARK)
                text.write((MARK if is_marked else "") + "".join(lines) + "\n")

    return write


CONLL = Writer(
    kinds=("tagged_tokens",),
    hold=_hold_conll,
    write=_sentences(_conll_line),
    suffixes=(".conll", ".bio", ".iob", ".iob2", ".txt"),
    layout="conll",
    loses={"tagged_tokens": "tabs and line ends in tokens; sentences with -DOCSTART-, or that look like a comment"},
)
CONLLU = Writer(
    kinds=("tagged_tokens",),
    hold=_hold_conllu,
    write=_sentences(_conllu_line),
    suffixes=(".conllu",),
    layout="conllu",
    loses={"tagged_tokens": "tabs and line ends in tokens; sentences with the tag _"},
)
