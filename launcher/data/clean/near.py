"""All texts that are almost the same: exactly those whose sets of pieces have a Jaccard similarity from a threshold on.

Nothing is missed by chance, as with hashes that are sampled. Two sets that are so similar share one of their few rarest
pieces, so only texts that share one are compared (prefix filtering: Chaudhuri, Ganti and Kaushik 2006, "A Primitive Operator for
Similarity Joins in Data Cleaning"), and only where enough pieces follow the first that they share (Xiao, Wang, Lin and Yu 2008,
"Efficient Similarity Joins for Near Duplicate Detection").
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

Pieces = frozenset[str]


def pieces(text: str, ngram: int) -> Pieces:
    """All runs of `ngram` characters, case and runs of white space aside; a shorter text is one piece."""
    text = " ".join(text.casefold().split())
    return frozenset(text[start : start + ngram] for start in range(max(1, len(text) - ngram + 1)))


def jaccard(one: Pieces, other: Pieces) -> float:
    """Two sets are never both empty: the empty text is a piece."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


ROUNDING = 1e-9  # of a product of a threshold and a size


class Near:
    """Finds among the texts that were added those that are similar to another. `texts`: all that will come, of which the
    rare pieces are told."""

    def __init__(self, texts: Iterable[str], threshold: float, ngram: int):
        self.threshold, self.ngram = threshold, ngram
        often: Counter[str] = Counter()
        for text in texts:
            often.update(pieces(text, ngram))
        self._rank = {piece: rank for rank, piece in enumerate(sorted(often, key=lambda piece: (often[piece], piece)))}
        self._sets: list[frozenset[int]] = []
        self._with: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(
            list
        )  # (text, its size, pieces from here on)

    def ranks(self, text: str) -> list[int]:
        """Numbers of the text's pieces, the rarest first."""
        return sorted(self._rank[piece] for piece in pieces(text, self.ngram))

    def add(self, ranks: list[int]) -> None:
        size = len(ranks)
        for place, rank in enumerate(self._rarest(ranks)):
            self._with[rank].append((len(self._sets), size, size - place))
        self._sets.append(frozenset(ranks))

    def similar(self, ranks: list[int]) -> Iterator[int]:
        """The numbers of those that were added and are similar, counted as they were added."""
        found, size = frozenset(ranks), len(ranks)
        share = self.threshold / (1 + self.threshold)
        likely: set[int] = set()
        for place, rank in enumerate(self._rarest(ranks)):
            left = size - place
            for number, others, others_left in self._with.get(rank, ()):
                if (left if left < others_left else others_left) >= share * (size + others) - ROUNDING:
                    likely.add(number)
        for number in sorted(likely):
            both = len(found & self._sets[number])
            if both >= self.threshold * (size + len(self._sets[number]) - both) - ROUNDING:
                yield number

    def _rarest(self, ranks: list[int]) -> list[int]:
        """So many that two similar sets have one of them in common."""
        return ranks[: len(ranks) - math.ceil(self.threshold * len(ranks) - ROUNDING) + 1]
