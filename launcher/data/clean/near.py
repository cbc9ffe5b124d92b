"""All texts that are almost the same: exactly those whose sets of pieces have a Jaccard similarity from a threshold on.

Nothing is missed by chance, as with hashes that are sampled. Two sets that are so similar share one of their few rarest
pieces, so only texts that share one are compared (prefix filtering: Chaudhuri, Ganti and Kaushik 2006, "A Primitive Operator for
Similarity Joins"; Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity Search").
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

Pieces = frozenset[str]


def pieces(text: str, ngram: int) -> Pieces:
    """All runs of `ngram` characters, case and runs of white space aside; a shorter text is one piece."""
    text = " ".join(text.casefold().split())
    return frozenset(text[start : start + ngram] for start in range(max(1, len(text) - ngram + 1)))


def jaccard(one: Pieces, other: Pieces) -> float:
    """Two sets are never both empty: the empty text is a piece."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


class Near:
    """Finds among the texts that were added the ones that are similar to another. `texts`: all that will come, of which the
    rare pieces are told."""

    def __init__(self, texts: Iterable[str], threshold: float, ngram: int):
        self.threshold, self.ngram = threshold, ngram
        self._often: Counter[str] = Counter()
        for text in texts:
            self._often.update(pieces(text, ngram))
        self._sets: list[Pieces] = []
        self._numbers: list[int] = []
        self._with: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, number: int, found: Pieces) -> None:
        for piece in self._rarest(found):
            self._with[piece].append(len(self._sets))
        self._sets.append(found)
        self._numbers.append(number)

    def similar(self, found: Pieces) -> Iterator[int]:
        """The numbers of what was added and is similar, as they were added."""
        least, most = self._bounds(len(found))
        seen: set[int] = set()
        for piece in self._rarest(found):
            seen.update(self._with.get(piece, ()))
        for place in sorted(seen):
            other = self._sets[place]
            if least <= len(other) <= most and jaccard(found, other) >= self.threshold:
                yield self._numbers[place]

    def _bounds(self, size: int) -> tuple[int, int]:
        """Sizes that a similar set may have; one too wide, since products are rounded."""
        return math.floor(self.threshold * size), math.ceil(size / self.threshold)

    def _rarest(self, found: Pieces) -> Sequence[str]:
        """So many that two similar sets have one in common."""
        shared = max(1, math.ceil(self.threshold * len(found) - 1e-9))
        ordered = sorted(found, key=lambda piece: (self._often[piece], piece))
        return ordered[: len(found) - shared + 1]
