"""The steps of `data.clean` and their options, which are done in the order of the recipe. Imports the ground alone.

An edit changes the texts of data.train and of data.eval alike. A drop takes rows out of data.train, and out of data.eval only
where its `eval` says so.
"""

from typing import Annotated, Literal

from pydantic import Field

from launcher.section import Section

Columns = tuple[Annotated[str, Field(min_length=1)], ...]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Trim(Section):
    """Takes away white space at both ends of a text."""

    name: Literal["trim"]
    """trim."""
    columns: Columns | None = None
    """Columns whose texts are trimmed; null: all."""
    collapse_spaces: bool = False
    """Make one space of spaces and tabs that follow each other; line ends stay."""


class NormalizeUnicode(Section):
    """Writes the same characters in the same way."""

    name: Literal["normalize_unicode"]
    """normalize_unicode."""
    columns: Columns | None = None
    """Columns whose texts are rewritten; null: all."""
    form: Literal["NFC", "NFKC"] = "NFC"
    """NFC composes accents; NFKC also makes plain letters and digits of wide, raised and joined ones."""
    remove_control: bool = True
    """Remove control characters; tabs and line ends stay."""
    remove_zero_width: bool = True
    """Remove zero-width spaces, word joiners and byte-order marks; the joiners that scripts and emoji need stay."""
    unify_line_ends: bool = True
    """Write every line end as one newline."""


class FixAnswers(Section):
    """Mends answers that do not stand at their answer_start, where the context tells how."""

    name: Literal["fix_answers"]
    """fix_answers."""
    repair: Literal["nearest", "unique", "none"] = "nearest"
    """Move the answer to the nearest place where its text stands; only where that is the only one; never."""


class Drop(Section):
    """What all steps that drop rows have."""

    columns: Columns | None = None
    """Columns that are looked at; null: as the step and the data suggest."""
    eval: bool = False
    """Drop such rows of data.eval, too."""


class DropEmpty(Drop):
    """Drops rows of which a text is empty or white space."""

    name: Literal["drop_empty"]
    """drop_empty."""


class DropLength(Drop):
    """Drops rows of which a text is too short or too long."""

    name: Literal["drop_length"]
    """drop_length."""
    min_chars: Count | None = None
    """Fewest characters."""
    max_chars: Count | None = None
    """Most characters."""
    min_words: Count | None = None
    """Fewest words, which stand between white space."""
    max_words: Count | None = None
    """Most words, which stand between white space."""


class DropBroken(Drop):
    """Drops rows whose text was damaged on its way."""

    name: Literal["drop_broken"]
    """drop_broken."""
    max_replacement_chars: Count = 0
    """Most replacement characters (U+FFFD), which stand where bytes could not be read."""
    min_letters: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Smallest share of letters, marks and digits among the characters that are no white space."""


class DropLanguage(Drop):
    """Drops rows of which a text is in another language than those named."""

    name: Literal["drop_language"]
    """drop_language."""
    languages: Annotated[tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...], Field(min_length=1)]
    """Languages that stay, by ISO 639 code: [en, de]."""
    min_score: Share = 0.7
    """Probability from which a text is in another language or two like it; one that is less clear, as short ones are, stays."""


class DropDuplicates(Drop):
    """Drops rows that are the same as another."""

    name: Literal["drop_duplicates"]
    """drop_duplicates."""
    keep: Literal["first", "last"] = "first"
    """Which one of them stays."""
    ignore_case: bool = False
    """Upper and lower case are the same."""
    on_conflicting_label: Literal["keep", "drop", "error"] = "keep"
    """Where the same input has different answers: keep it once with each, drop it altogether, or stop and name two of them."""


class DropNearDuplicates(Drop):
    """Drops rows that are almost the same as one before."""

    name: Literal["drop_near_duplicates"]
    """drop_near_duplicates."""
    threshold: Share = 0.85
    """From this similarity: the share of the pieces of two texts that both have (Jaccard). Each column must be as similar."""
    ngram: Annotated[int, Field(ge=1)] = 5
    """Characters in a piece; case and runs of white space do not count."""
    same_label: bool = True
    """Only rows with the same answer; false drops them whatever their answers."""


class DropLeakage(Section):
    """Drops rows of data.train whose input also stands in data.eval, which stays as it is."""

    name: Literal["drop_leakage"]
    """drop_leakage."""
    columns: Columns | None = None
    """Columns that are looked at; null: the inputs."""
    ignore_case: bool = False
    """Upper and lower case are the same."""
    threshold: Share | None = None
    """From this similarity, as for drop_near_duplicates; null: only rows that are the same."""
    ngram: Annotated[int, Field(ge=1)] = 5
    """Characters in a piece."""


EDITS = (Trim, NormalizeUnicode, FixAnswers)
BY_ROW = (*EDITS, DropEmpty, DropLength, DropBroken, DropLanguage)  # what becomes of a row does not depend on others
CleanStep = Annotated[
    Trim
    | NormalizeUnicode
    | FixAnswers
    | DropEmpty
    | DropLength
    | DropBroken
    | DropLanguage
    | DropDuplicates
    | DropNearDuplicates
    | DropLeakage,
    Field(discriminator="name"),
]
