"""Texts with words left out, exchanged, hidden or said in other words."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from launcher.data.augment.steps import OfWords, RandomDeletion, RandomMasking, RandomSwap, SynonymReplacement
from launcher.errors import DataError

Random = np.random.Generator
Synonyms = Mapping[str, Sequence[str]]  # lower-case word -> others of its meaning
SHAPE = '{"word": ["synonym", ...]}'


def changed(text: str, step: OfWords, random: Random, mask: str | None, synonyms: Synonyms) -> str:
    """The text after one step. `mask`: the tokenizer's mask token. White space between words that stay is kept."""
    words = re.findall(r"\s*\S+" if step.unit == "word" else r"\s*\S", text)
    if not words:
        return text
    chosen = np.flatnonzero(random.random(len(words)) < step.share)
    if isinstance(step, RandomDeletion):
        kept = set(range(len(words))) - set(chosen.tolist()) or {int(random.integers(len(words)))}
        return "".join(words[place] for place in sorted(kept)).lstrip()
    if isinstance(step, RandomSwap):
        for place in chosen:
            other = int(random.integers(len(words)))
            words[place], words[other] = _exchanged(words[place], words[other])
    elif isinstance(step, RandomMasking):
        assert mask is not None
        for place in chosen:
            words[place] = _in_place(words[place], mask)
    else:
        assert isinstance(step, SynonymReplacement)
        for place in chosen:
            words[place] = _said_otherwise(words[place], synonyms, random)
    return "".join(words)


def synonyms_of(path: str) -> Synonyms:
    """The list of a `synonym_replacement`. DataError for a file that holds none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = _of_json(text) if path.endswith(".json") else _of_lines(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the synonyms cannot be read: {error}", where=path, fix="put the file there, in UTF-8"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"the synonyms are not {SHAPE}: {error}", where=path, fix="mend the file") from None
    if not found:
        raise DataError(
            "no two words have one meaning", where=path, fix="write words of one meaning on a line, commas between"
        )
    return found


def _of_json(text: str) -> dict[str, list[str]]:
    found = {word.casefold(): list(others) for word, others in json.loads(text).items()}
    for word, others in found.items():
        if not all(isinstance(other, str) and other.strip() for other in others):
            raise ValueError(f"{word} has a synonym that is no word")
    return {word: others for word, others in found.items() if others}


def _of_lines(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",") if word.strip()]
        for word in words:
            others = [other for other in words if other.casefold() != word.casefold()]
            if others:
                found.setdefault(word.casefold(), []).extend(others)
    return found


def _exchanged(first: str, second: str) -> tuple[str, str]:
    """Each in the other's place, behind the white space that is there."""
    return _in_place(first, second.lstrip()), _in_place(second, first.lstrip())


def _in_place(word: str, other: str) -> str:
    return word[: len(word) - len(word.lstrip())] + other


def _said_otherwise(word: str, synonyms: Synonyms, random: Random) -> str:
    """Punctuation around it stays, and a capital letter at its beginning."""
    match = re.fullmatch(r"(\s*\W*)(.*?)(\W*)", word, re.S)
    assert match is not None
    before, core, after = match.groups()
    if not (others := synonyms.get(core.casefold(), ())):
        return word
    other = others[int(random.integers(len(others)))]
    return before + (other[:1].upper() + other[1:] if core[:1].isupper() else other) + after
