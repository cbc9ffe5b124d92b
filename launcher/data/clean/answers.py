"""Answers in a context: moved along when the context is edited, and mended where they do not stand at their answer_start."""

import re
from collections.abc import Sequence
from typing import Any

from launcher.data.clean.steps import NormalizeUnicode, Trim
from launcher.data.clean.texts import Example, inner_edit

Answer = dict[str, Any]  # text, answer_start


def stands(answer: Answer, context: str) -> bool:
    return answer["answer_start"] >= 0 and context.startswith(answer["text"], answer["answer_start"])


def moved(example: Example, step: Trim | NormalizeUnicode) -> Example:
    """Context and answers after the step. The context is edited in pieces between the borders of answers, so that these stay
    exactly where they were; an example whose answers do not stand in it, or would be empty, is returned as it is."""
    context, answers = example["context"], example.get("answers") or []
    if not all(stands(answer, context) for answer in answers):
        return example
    inner = inner_edit(step)
    borders = sorted({0, len(context), *(border for answer in answers for border in _borders(answer))})
    places, made = {0: 0}, ""
    for start, end in zip(borders, borders[1:], strict=False):
        made += inner(context[start:end])
        places[end] = len(made)
    first, last = _ends(made) if isinstance(step, Trim) else (0, len(made))
    found = []
    for answer in answers:
        start, end = (min(max(places[border], first), last) for border in _borders(answer))
        if isinstance(step, Trim):
            head, tail = _ends(made[start:end])
            start, end = start + head, start + tail
        found.append({**answer, "text": made[start:end], "answer_start": start - first})
    if not all(answer["text"].strip() for answer in found):
        return example
    return {**example, "context": made[first:last], **({"answers": found} if "answers" in example else {})}


def _borders(answer: Answer) -> tuple[int, int]:
    return answer["answer_start"], answer["answer_start"] + len(answer["text"])


def _ends(text: str) -> tuple[int, int]:
    """Where the first and behind the last character that is no white space; the start twice where there is none."""
    first = len(text) - len(text.lstrip())
    return (first, len(text.rstrip())) if text.strip() else (0, 0)


def mended(example: Example, repair: str) -> tuple[Example, int, Sequence[Answer]]:
    """The example with its answers in their places, how many were moved, and those for which there is no place."""
    context, kept, lost, number = example["context"], [], [], 0
    for answer in example.get("answers") or []:
        place = answer["answer_start"] if stands(answer, context) else _place(answer, context, repair)
        if place is None:
            lost.append(answer)
            continue
        number += place != answer["answer_start"]
        kept.append({**answer, "answer_start": place})
    return {**example, **({"answers": kept} if "answers" in example else {})}, number, lost


def _place(answer: Answer, context: str, repair: str) -> int | None:
    places = [found.start() for found in re.finditer(f"(?={re.escape(answer['text'])})", context)]
    if not places or repair == "none" or repair == "unique" and len(places) > 1:
        return None
    return min(places, key=lambda place: (abs(place - answer["answer_start"]), place))
