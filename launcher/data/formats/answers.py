"""Questions whose answers stand in a text: rows, and SQuAD files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.data.formats.cells import Cells, Row, checked_text, kind
from launcher.data.formats.layout import Layout, head
from launcher.data.readers import Read, json_of
from launcher.errors import DataError
from launcher.schema import Source


def question_answers(cells: Cells) -> Row:
    """{id, question, context, answers}; answer_start counts characters, no answer at all is a question without one."""
    name = cells.get("id")
    example: Row = {
        "id": cells.where if name is None else checked_text(str(name), cells.said("id"), cells.where),
        "question": cells.text("question"),
        "context": cells.text("context"),
    }
    return {**example, "answers": _answers(cells, example["context"])} if cells.answered("answers") else example


def _answers(cells: Cells, context: str) -> list[Row]:
    given = cells.answer("answers")
    if isinstance(given, dict):  # the hub's columns: {text: [...], answer_start: [...]}
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise cells.error(f"{cells.said('answers')} must hold as many answer_start as text, two lists")
        given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given, list):
        raise cells.error(f"{cells.said('answers')} must be a list of {{text, answer_start}}, not {kind(given)}")
    found = [_answer(answer, f"{cells.where} answers[{i}]") for i, answer in enumerate(given)]
    for i, answer in enumerate([] if cells.misplaced else found):
        _insist_on_place(answer, context, f"{cells.where} answers[{i}]")
    return found


def _answer(answer: Any, where: str) -> Row:
    if not isinstance(answer, dict) or type(answer.get("answer_start")) is not int:
        raise DataError("an answer needs a text and an answer_start, a whole number", where=where)
    text = checked_text(answer.get("text"), "the text", where)
    if not text.strip():
        raise DataError("the text is empty", where=where, fix="a question without an answer has answers: []")
    return {"text": text, "answer_start": answer["answer_start"]}


def _insist_on_place(answer: Row, context: str, where: str) -> None:
    text, start = answer["text"], answer["answer_start"]
    if start < 0 or not context.startswith(text, start):
        there = f"{context[start : start + len(text)]!r} does" if 0 <= start < len(context) else "nothing is"
        problem = f"{text!r} does not stand at answer_start {start} of the context, {there}"
        raise DataError(problem, where=where, fix=_where_it_stands(text, context))


def _where_it_stands(text: str, context: str) -> str:
    """Never corrected unasked: one place may still be the wrong one. The step fix_answers of data.clean does."""
    places = [found.start() for found in re.finditer(f"(?={re.escape(text)})", context)]
    if len(places) == 1:
        return f"it stands at {places[0]}, and nowhere else"
    return f"it stands at {', '.join(map(str, places[:5]))}" if places else "it stands nowhere in the context"


def _squad(path: Path, source: Source, labelled: bool) -> Iterator[Read]:
    """data[].paragraphs[].qas[], https://rajpurkar.github.io/SQuAD-explorer; 2.0 marks what has no answer."""
    whole = json_of(path)
    articles = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(articles, list):
        raise DataError("not a SQuAD file: it holds no list under data", where=str(path))
    for i, article in enumerate(articles):
        for j, paragraph in enumerate(_list(article, "paragraphs", f"{path} data[{i}]")):
            where = f"{path} data[{i}].paragraphs[{j}]"
            for k, question in enumerate(_list(paragraph, "qas", where)):
                yield _question(question, paragraph, f"{where}.qas[{k}]")


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise DataError(f"not a SQuAD file: no list of {key} here", where=where)
    found: list[Any] = value[key]
    return found


def _question(question: Any, paragraph: Row, where: str) -> Read:
    if not isinstance(question, dict):
        return where, question
    named = f"{where} ({question['id']})" if "id" in question else where
    kept = {name: question[name] for name in ("id", "question", "answers") if name in question}
    unanswerable: Row = {"answers": []} if question.get("is_impossible") is True else {}
    return named, {**kept, **unanswerable, "context": paragraph.get("context")}


SQUAD = Layout(
    read=_squad,
    holds=lambda path, source: re.search(r'"paragraphs"\s*:', head(path)) is not None,
    is_folder=False,
    looks='a SQuAD file: {"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}',
    suffixes=(".json",),
)
