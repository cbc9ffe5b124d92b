"""Sentences as lists of tokens with a tag each: rows, CoNLL files, CoNLL-U files."""

import re
from collections.abc import Iterator
from pathlib import Path

from launcher.data.formats.cells import Cells, Row, names
from launcher.data.formats.layout import Layout, head
from launcher.data.readers import Read
from launcher.errors import DataError
from launcher.schema import Source

Line = tuple[int, str]  # counted from 1
FORM, UPOS = 1, 3  # columns of CoNLL-U, counted from 0
WORD_ID = re.compile(r"\d+")  # not a range 1-2, not an empty node 8.1
TAG = re.compile(r"O|[A-Z]-\S+|[A-Z#]+")


def tagged_tokens(cells: Cells) -> Row:
    tokens = names(cells, "tokens", "token")
    if not tokens:
        raise cells.error(f"{cells.said('tokens')} is empty")
    if not cells.answered("tags"):
        return {"tokens": tokens}
    tags = names(cells, "tags", "tag")
    if len(tags) != len(tokens):
        raise cells.error(f"{len(tokens)} tokens and {len(tags)} tags; each token needs one")
    return {"tokens": tokens, "tags": tags}


def _conll(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    """Columns between tabs, or else between spaces; the first holds the tokens, the last the tags."""
    token = int(source.columns.get("tokens", 0))
    tag = int(source.columns.get("tags", -1))
    for sentence in _sentences(path):
        rows = [(number, _columns(line)) for number, line in _without_comments(sentence)]
        rows = [(number, columns) for number, columns in rows if columns[0] != "-DOCSTART-"]
        if rows:
            yield f"{path}:{rows[0][0]}", _tagged(path, rows, token, tag, labelled)


def _conllu(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    """https://universaldependencies.org/format.html: ten columns between tabs."""
    form = int(source.columns.get("tokens", FORM))
    tag = int(source.columns.get("tags", UPOS))
    for sentence in _sentences(path):
        lines = [(number, line.split("\t")) for number, line in sentence if not line.startswith("#")]
        rows = [(number, columns) for number, columns in lines if WORD_ID.fullmatch(columns[0]) or len(columns) == 1]
        if rows:
            row = _tagged(path, rows, form, tag, labelled)
            if isinstance(row, dict) and "_" in row.get("tags", ()):  # not specified
                row = _untagged(row, f"{path}:{rows[row['tags'].index('_')][0]}", tag, labelled)
            yield f"{path}:{rows[0][0]}", row


def _untagged(row: Row, where: str, tag: int, labelled: bool) -> Row | DataError:
    if labelled:
        return DataError(f"no tag in column {tag}, but _", where=where, fix="choose another with columns: {tags: ...}")
    return {"tokens": row["tokens"]}


def _tagged(path: Path, rows: list[tuple[int, list[str]]], token: int, tag: int, labelled: bool) -> Row | DataError:
    """{tokens, tags} of one sentence; without tags where the lines have one column and none are needed."""
    width = max(len(columns) for _, columns in rows)
    if width == 1 and not labelled:
        return {"tokens": [columns[0] for _, columns in rows]}
    for number, columns in rows:
        if len(columns) == 1:
            return DataError(
                "one column only: a token without a tag, or a tag without a token", where=f"{path}:{number}"
            )
        if len(columns) != width:
            problem = f"{len(columns)} columns in a sentence with {width}"
            return DataError(problem, where=f"{path}:{number}")
    if width <= max(token, tag):
        problem = f"{width} columns, counted from 0; there is no column {max(token, tag)}"
        return DataError(problem, where=f"{path}:{rows[0][0]}")
    return {"tokens": [columns[token] for _, columns in rows], "tags": [columns[tag] for _, columns in rows]}


def _sentences(path: Path) -> Iterator[list[Line]]:
    """The numbered lines between blank lines."""
    sentence: list[Line] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                sentence.append((number, line.rstrip("\n")))
            elif sentence:
                yield sentence
                sentence = []
    if sentence:
        yield sentence


def _columns(line: str) -> list[str]:
    """Not `str.split()`: a token may be another kind of space."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _without_comments(sentence: list[Line]) -> list[Line]:
    """Comments stand before a sentence and begin with `# `. So does a line of data that begins with the token `#`:
    it has as many columns as the others, and a tag for the last."""
    last = sentence[-1][1]
    is_bare = last.startswith("# ") and "\t" not in last  # a comment is as wide as it has words
    width = 2 if is_bare else len(_columns(last))
    start = 0
    while start < len(sentence) and sentence[start][1].startswith("# "):
        columns = _columns(sentence[start][1])
        if len(columns) == width and TAG.fullmatch(columns[-1]):
            break
        start += 1
    return sentence[start:]


CONLL = Layout(
    read=_conll,
    holds=lambda path, source: True,
    is_folder=False,
    looks="lines of a token and its tag, with a blank line between sentences",
    suffixes=(".conll", ".bio", ".iob", ".iob2", ".txt"),
    columns="positions",
)
CONLLU = Layout(
    read=_conllu,
    holds=lambda path, source: "\t" in head(path),
    is_folder=False,
    looks="CoNLL-U: ten columns between tabs, a blank line between sentences",
    suffixes=(".conllu",),
    columns="positions",
)
