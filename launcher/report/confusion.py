"""A confusion matrix laid out for the eye: with numbers while they can be read, else as shades and a list."""

import math
from dataclasses import dataclass

MOST_WITH_NUMBERS = 20
MOST_DRAWN = 100  # classes; beyond it the list has to do
MOST_LISTED = 20
LABEL_LETTERS = 30
LETTER_WIDTH = 6.1  # pixels of a letter at the size of the matrix's labels


@dataclass(frozen=True)
class Cell:
    """`count` examples of class `reference` were taken for `predicted`; `share` is their part of that reference's row."""

    reference: int
    predicted: int
    count: int
    share: float

    @property
    def right(self) -> bool:
        return self.reference == self.predicted

    @property
    def shade(self) -> float:
        """0 to 1. The root of the share: one error in fifty is still to be seen, and the legend shows the scale."""
        return round(math.sqrt(self.share), 3)


@dataclass(frozen=True)
class Confusion:
    labels: list[str]
    rows: list[list[Cell]]
    reference_sums: list[int]
    predicted_sums: list[int]

    @property
    def look(self) -> str:
        """numbers | shades | list."""
        few = len(self.labels) <= MOST_WITH_NUMBERS
        return "numbers" if few else "shades" if len(self.labels) <= MOST_DRAWN else "list"

    @property
    def slanted(self) -> bool:
        """Whether the names above the columns are written upwards, to keep the columns narrow."""
        return sum(min(len(label), LABEL_LETTERS) for label in self.labels) > 80

    @property
    def cell_pixels(self) -> int:
        return 18 if len(self.labels) <= 40 else 12

    @property
    def label_pixels(self) -> int:
        return round(LETTER_WIDTH * min(max(map(len, self.labels)), LABEL_LETTERS)) + 30

    @property
    def drawn(self) -> list[Cell]:
        """The cells that hold anything."""
        return [cell for row in self.rows for cell in row if cell.count]

    @property
    def confusions(self) -> list[Cell]:
        """Off the diagonal, the most frequent first; equals in the order of the labels."""
        return sorted((cell for cell in self.drawn if not cell.right), key=lambda cell: -cell.count)

    @property
    def right(self) -> int:
        return sum(row[i].count for i, row in enumerate(self.rows))


def laid_out(labels: list[str], counts: list[list[int]]) -> Confusion:
    """counts[reference][predicted], as many of both as labels."""
    sums = [sum(row) for row in counts]
    rows = [
        [Cell(i, j, count, count / total if total else 0.0) for j, count in enumerate(row)]
        for i, (row, total) in enumerate(zip(counts, sums, strict=True))
    ]
    return Confusion(labels, rows, sums, [sum(column) for column in zip(*counts, strict=True)])
