"""Texts that are classified, scored, tagged, or searched for an answer: what is explained, and its tokens."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from launcher.errors import DataError, RecipeError
from launcher.explain import Asked, Piece
from launcher.explain import pieces as tokens
from launcher.objectives.classification import MULTI_LABEL
from launcher.suggest import did_you_mean


def inputs_of(predictor: Any, rows: Sequence[Mapping[str, Any]], number: int = 0) -> dict[str, Tensor]:
    """What the model is given of one prepared row."""

    def read(index: int, names: Any = None) -> dict[str, Any]:
        return {name: rows[index][name] for name in names or rows[index]}

    batch = predictor.task.rows.collate([[number]], read, predictor.context)
    targets = {*predictor.task.TRAITS.target_names, "is_word"}
    return {name: tensor.to(predictor.device) for name, tensor in batch.items() if name not in targets}


def classification(predictor: Any, rows: Sequence[Mapping[str, Any]], target: str | None) -> Asked:
    """The logit of a label."""
    text, inputs = _pair(rows[0]), inputs_of(predictor, rows)
    pieces = _pieces_of_row(predictor, rows[0], text)
    return of_labels(predictor, inputs, target, " | ".join(text), {"texts": text, "pieces": pieces})


def of_labels(
    predictor: Any, inputs: dict[str, Tensor], target: str | None, shown: str, parts: Mapping[str, Any] | None = None
) -> Asked:
    """Whatever has logits of labels. RecipeError for a `target` that is none of them."""
    names = predictor.context.labels.names
    with torch.no_grad():
        logits = predictor.objective.model(**inputs).logits[0].float()
    several = predictor.context.head.get("problem_type") == MULTI_LABEL
    chances = logits.sigmoid() if several else logits.softmax(-1)
    best = int(logits.argmax())
    number = best if target is None else _number(target, names)
    return Asked(
        shown=shown,
        inputs=inputs,
        score=lambda said: said.logits[:, number].float(),
        what=f"the logit of {names[number]}",
        label=names[number],
        predicted=names[best],
        probability=float(chances[number]),
        **(parts or {}),
    )


def regression(predictor: Any, rows: Sequence[Mapping[str, Any]], target: str | None) -> Asked:
    """The number itself."""
    if target is not None:
        raise RecipeError("--target: a regression has one output", fix="leave it out")
    text, inputs = _pair(rows[0]), inputs_of(predictor, rows)
    with torch.no_grad():
        value = float(predictor.objective.model(**inputs).logits[0, 0])
    return Asked(
        shown=" | ".join(text),
        inputs=inputs,
        score=lambda said: said.logits[:, 0].float(),
        what="the predicted number",
        label=f"{value:.4g}",
        predicted=f"{value:.4g}",
        probability=None,
        texts=text,
        pieces=_pieces_of_row(predictor, rows[0], text),
    )


def tags(predictor: Any, rows: Sequence[Mapping[str, Any]], target: str | None, word: str | None) -> Asked:
    """The logit of a tag at the first token of a word: `word`, its number from 1, or the first that is tagged at all."""
    if len(rows) > 1:
        raise DataError(
            "the sentence is longer than data.max_length", where=rows[0]["where"], fix="explain a shorter one"
        )
    row, names, inputs = rows[0], predictor.context.labels.names, inputs_of(predictor, rows)
    with torch.no_grad():
        logits = predictor.objective.model(**inputs).logits[0].float()
    best = [names[int(logits[place].argmax())] if place >= 0 else "O" for place in row["starts"]]
    at = _word_number(row["tokens"], word, best)
    place = row["starts"][at]
    if place < 0:
        raise DataError(f"the tokenizer leaves nothing of {row['tokens'][at]!r}", where=row["where"])
    number = names.index(best[at]) if target is None else _number(target, names)
    text = row["text"] or " ".join(row["tokens"])
    return Asked(
        shown=text,
        inputs=inputs,
        score=lambda said: said.logits[:, place, number].float(),
        what=f"the logit of {names[number]} for the word {at + 1}, {row['tokens'][at]!r}",
        label=names[number],
        predicted=best[at],
        probability=float(logits[place].softmax(-1)[number]),
        texts=(text,),
        pieces=tuple(_pieces_of_words(row, text, predictor.context.processor)),
        extra={"word": row["tokens"][at], "word_number": at + 1},
    )


def answer(predictor: Any, rows: Sequence[Mapping[str, Any]], target: str | None) -> Asked:
    """The sum of the logits of where the likeliest answer begins and ends, or of one of the two."""
    if target not in (None, "start", "end"):
        raise RecipeError(
            f"--target {target}: of an answer its start or its end is explained", fix="use start or end, or neither"
        )
    found = [predictor.predictions(rows, [number])[0] for number in range(len(rows))]
    window = max(range(len(rows)), key=lambda number: float(found[number][2]))
    row, (first, last, score, none, total) = rows[window], found[window]
    places, texts = (int(first), int(last)), (rows[0]["question"], rows[0]["context"])
    begin = row["first_context"]
    said = texts[1][row["char_starts"][places[0] - begin] : row["char_ends"][places[1] - begin]]

    def of(out: Any) -> Tensor:
        start: Tensor = out.start_logits[:, places[0]].float()
        end: Tensor = out.end_logits[:, places[1]].float()
        return start if target == "start" else end if target == "end" else start + end

    whole = {"start": "the logit of its start", "end": "the logit of its end", None: "the logits of its start and end"}
    notes = [f"window {window + 1} of {len(rows)}, which has the likeliest answer"] if len(rows) > 1 else []
    threshold = predictor.context.data.null_score_diff_threshold
    if threshold is not None and none - score > threshold:
        notes.append("the model says that there is no answer; this is the likeliest one")
    return Asked(
        shown=" | ".join(texts),
        inputs=inputs_of(predictor, rows, window),
        score=of,
        what=f"{whole[target]}, for the answer {said!r}",
        label=said,
        predicted=said,
        probability=float(torch.tensor(score - total).exp()),
        texts=texts,
        pieces=tuple(_pieces_of_window(row, texts, predictor.context.processor)),
        notes=tuple(notes),
    )


def _pair(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["text"], row["text_pair"]) if row["text_pair"] else (row["text"],)


def _number(target: str, names: Sequence[str]) -> int:
    if target in names:
        return list(names).index(target)
    raise RecipeError(
        f"--target: there is no label {target}{did_you_mean(target, names)}", fix=f"labels: {', '.join(names)}"
    )


def _word_number(given: Sequence[str], word: str | None, best: Sequence[str]) -> int:
    if word is None:
        return next((number for number, tag in enumerate(best) if tag != "O"), 0)
    if word in given:
        return list(given).index(word)
    if word.isdecimal() and 0 < int(word) <= len(given):
        return int(word) - 1
    raise RecipeError(
        f"--word: there is no word {word}{did_you_mean(word, given)}", fix=f"name one of 1 to {len(given)}"
    )


def _pieces_of_row(predictor: Any, row: Mapping[str, Any], texts: Sequence[str]) -> tuple[Piece, ...]:
    """Tokenised as the row was; a row is cut to data.max_length."""
    tokenizer, limit = predictor.context.processor, predictor.context.data.max_length
    options: dict[str, Any] = {"return_offsets_mapping": True, "verbose": False}
    found = tokenizer(*texts, truncation="longest_first", max_length=limit, **options)
    assert list(found["input_ids"]) == list(row["input_ids"]), "a text has the same tokens whenever it is tokenised"
    return tokens.of_encoding(found, tokenizer, texts)


def _pieces_of_words(row: Mapping[str, Any], text: str, tokenizer: Any) -> list[Piece]:
    """A token stands for all of its word, since words were tokenised one by one."""
    spans, at = [], 0
    for word in row["tokens"]:
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    first = {place: number for number, place in enumerate(row["starts"]) if place >= 0}
    names, special = tokenizer.convert_ids_to_tokens([*map(int, row["input_ids"])]), tokens.special_ids(tokenizer)
    found, current = [], None
    for place, (name, number) in enumerate(zip(names, row["input_ids"], strict=True)):
        current = first.get(place, current)
        if int(number) in special or current is None:
            found.append(Piece(name, special=True))
        else:
            found.append(Piece(name, 0, *spans[current]))
    return found


def _pieces_of_window(row: Mapping[str, Any], texts: Sequence[str], tokenizer: Any) -> list[Piece]:
    """The question's tokens stand before the context's, between those that the tokenizer adds."""
    names = tokenizer.convert_ids_to_tokens([*map(int, row["input_ids"])])
    alone = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    special, begin = tokens.special_ids(tokenizer), row["first_context"]
    asked = iter(zip(alone["input_ids"], alone["offset_mapping"], strict=True))
    found: list[Piece] = []
    for place, (name, number) in enumerate(zip(names, row["input_ids"], strict=True)):
        inside = place - begin
        if 0 <= inside < len(row["char_starts"]):
            start, end = row["char_starts"][inside], row["char_ends"][inside]
            found.append(Piece(re.sub(r"^\s+", "", texts[1][start:end]) or name, 1, start, end))
        elif int(number) in special:
            found.append(Piece(name, special=True))
        else:
            start, end = next(asked, (0, (0, 0)))[1]
            found.append(Piece(texts[0][start:end].strip() or name, 0, start, end))
    return found
