"""Tokens with the characters that they stand for, and the sums of their attributions by word."""

import re
from bisect import bisect
from collections.abc import Sequence
from typing import Any

from launcher.explain import Piece

ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han
WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")


def of_encoding(found: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[Piece, ...]:
    """Of what a fast tokenizer made of one or two texts, with return_offsets_mapping."""
    parts = found.sequence_ids()
    spans = zip(found["input_ids"], parts, found["offset_mapping"], strict=True)
    return tuple(_piece(token, part, span, tokenizer, texts) for token, part, span in spans)


def _piece(token: int, part: int | None, span: tuple[int, int], tokenizer: Any, texts: Sequence[str]) -> Piece:
    name = str(tokenizer.convert_ids_to_tokens(int(token)))
    if part is None or token in special_ids(tokenizer):
        start, end = (None, None) if part is None else span
        return Piece(name, part or 0, start, end, special=True)
    start, end = _bare(texts[part], *span)
    return Piece(texts[part][start:end] or name, part, start, end)


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the spaces before it, which some tokenizers count in; a token of spaces keeps them."""
    spaces = len(text[start:end]) - len(text[start:end].lstrip())
    return (start + spaces if start + spaces < end else start), end


def special_ids(tokenizer: Any) -> set[int]:
    """Those that stand for no part of a text, those of a chat template among them; an unknown word is part of a text."""
    added = {number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id, tokenizer.mask_token_id}


def of_ids(ids: Sequence[int], tokenizer: Any) -> tuple[Piece, ...]:
    """Of a slow tokenizer, which does not know where in the text a token stands: they have names alone, and make no words."""
    special = special_ids(tokenizer)
    names = tokenizer.convert_ids_to_tokens([*map(int, ids)])
    return tuple(Piece(str(name), special=int(number) in special) for name, number in zip(names, ids, strict=True))


def encoded(tokenizer: Any, text: str, **options: Any) -> tuple[list[int], tuple[Piece, ...]]:
    """Token ids of one text, and what they stand for."""
    found = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, verbose=False, **options)
    ids: list[int] = list(found["input_ids"])
    return ids, of_encoding(found, tokenizer, (text,)) if tokenizer.is_fast else of_ids(ids, tokenizer)


def words(pieces: Sequence[Piece], values: Sequence[float], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Runs of characters without a space, where Chinese and Japanese characters are each by themselves; each with the sum of the
    attributions of its tokens. A token that begins in no word, of spaces for one, counts with the word before it."""
    found: list[dict[str, Any]] = []
    for part, text in enumerate(texts):
        spans = [match.span() for match in WORD.finditer(text)]
        sums: dict[int, float] = {}
        for piece, value in zip(pieces, values, strict=True):
            if piece.part == part and piece.start is not None and not piece.special and spans:
                place = max(0, bisect([start for start, _ in spans], piece.start) - 1)
                sums[place] = sums.get(place, 0.0) + value
        for place, total in sorted(sums.items()):
            start, end = spans[place]
            found.append({"word": text[start:end], "part": part, "start": start, "end": end, "attribution": total})
    return found
