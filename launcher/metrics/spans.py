"""Token classification: named spans by the rules of CoNLL (seqeval reads them), or plain tags such as parts of speech."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from launcher.errors import DataError
from launcher.metrics import Measured, counts, finite, named, nothing

SCHEMES = {"IOB2": "BIO", "IOE2": "EIO", "IOBES": "BIOES", "BIOES": "BIOES", "BILOU": "BILOU"}
_SPAN_TAG = re.compile(r"O|[BIESLU](-.+)?")
_BIOES = str.maketrans("LU", "ES")  # BILOU's last and unit are BIOES's end and single
_MOST_TAGS = 20

Span = tuple[int, str, int, int]  # number of the sentence, type, first and last token


def sequences(predicted: list[list[str]], references: list[list[str]], scheme: str | None = None) -> Measured:
    """token_accuracy of tags, a list a sentence, and of spans precision, recall and f1 (micro): right only if exactly right.

    Tags are of spans if all are `O` or a letter of B, I, E, S (or L, U), alone or before `-TYPE`. Spans are then read as
    conlleval and seqeval do: leniently, an `I-` after `O` or after another type begins a span. `scheme` (see `SCHEMES`)
    reads them strictly instead: only what its rules allow is a span. DataError for a tag that the scheme does not have.
    Other tags: `f1_macro` over the tags that occur or are predicted, and their confusion matrix.
    """
    assert [len(tags) for tags in predicted] == [len(tags) for tags in references], "a tag for each token"
    pairs = Counter(zip(_flat(references), _flat(predicted), strict=True))
    if not pairs:
        return nothing("there are no tokens")
    accuracy = sum(n for (wanted, given), n in pairs.items() if wanted == given) / pairs.total()
    tags = sorted({tag for pair in pairs for tag in pair})
    others = [tag for tag in tags if not _SPAN_TAG.fullmatch(tag)]
    if scheme:
        _refuse(tags, scheme)
    measured = _tags(pairs, tags) if others else _spans(predicted, references, scheme)
    if others and any("-" in tag and _SPAN_TAG.fullmatch(tag) for tag in tags):
        note = f"tags are compared one by one, not as spans: {named(others)} has neither the form B-TYPE nor is O"
        measured = finite(measured.values, measured.details, [*measured.details.get("notes", []), note])
    return Measured({"token_accuracy": accuracy, **measured.values}, measured.details)


def read(sentences: list[list[str]], scheme: str | None = None) -> set[Span]:
    """The spans of sentences of tags, leniently, or strictly by a scheme of `SCHEMES`."""
    from seqeval import scheme as strict
    from seqeval.metrics.sequence_labeling import get_entities

    if scheme:
        rules = getattr(strict, "IOBES" if scheme == "BIOES" else scheme)
        entities = [one for found in strict.Entities(sentences, rules).entities for one in found]
        return {(one.sent_id, one.tag, one.start, one.end - 1) for one in entities}
    plain = [[tag[0].translate(_BIOES) + tag[1:] for tag in tags] for tags in sentences]
    return {(number, *span) for number, tags in enumerate(plain) for span in get_entities(tags)}


def are_spans(tags: Iterable[str]) -> bool:
    """Whether all tags are `O` or a letter of B, I, E, S (or L, U), alone or before `-TYPE`."""
    return all(_SPAN_TAG.fullmatch(tag) for tag in tags)


def _flat(sentences: list[list[str]]) -> Iterable[str]:
    return (tag for tags in sentences for tag in tags)


def _refuse(tags: list[str], scheme: str) -> None:
    if scheme not in SCHEMES:
        raise DataError(f"there is no tagging scheme {scheme!r}", fix=f"name one of {', '.join(SCHEMES)}, or none")
    if wrong := [tag for tag in tags if not _SPAN_TAG.fullmatch(tag) or tag[0] not in SCHEMES[scheme]]:
        problem = f"{named(wrong)}: tags of {scheme} begin with one of {', '.join(SCHEMES[scheme])}"
        raise DataError(problem, fix="correct the tags, or leave the scheme out")


def _spans(predicted: list[list[str]], references: list[list[str]], scheme: str | None) -> Measured:
    given, wanted = read(predicted, scheme), read(references, scheme)
    types = sorted({kind for _, kind, _, _ in given | wanted})
    marginals = [_by_type(spans, types) for spans in (given & wanted, given, wanted)]
    notes = [] if wanted else ["the references have no spans"]
    details = {"table": counts.table(types, counts.per_class(*marginals))} if types else {}
    return finite(counts.averages(*marginals), details, notes)


def _by_type(spans: set[Span], types: list[str]) -> Any:
    found = Counter(kind for _, kind, _, _ in spans)
    return np.array([found[kind] for kind in types], np.int64)


def _tags(pairs: Counter[tuple[str, str]], tags: list[str]) -> Measured:
    index = {tag: i for i, tag in enumerate(tags)}
    confusion = np.zeros((len(tags), len(tags)), np.int64)
    for (wanted, given), n in pairs.items():
        confusion[index[wanted], index[given]] = n
    found = counts.per_class(confusion.diagonal(), confusion.sum(0), confusion.sum(1))
    notes: list[str] = []
    matrix = counts.confusion_matrix(confusion, tags, notes, _MOST_TAGS)
    return finite(
        {"f1_macro": float(found.f1.mean())}, {"confusion_matrix": matrix, "table": counts.table(tags, found)}, notes
    )
