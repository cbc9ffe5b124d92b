"""Spans of tags against a slow reader with the rules of CoNLL, plain tags against scikit-learn, and odd tags by hand."""

import random
import warnings

import pytest
from sklearn import metrics as sk

from launcher.errors import DataError
from launcher.metrics.spans import SCHEMES, read, sequences


def lenient(tags: list[str]) -> set[tuple[str, int, int]]:
    """conlleval: a token goes on with the span before it unless a border or another type lies between the two."""
    found, start = set(), -1
    for i in range(len(tags) + 1):
        before, here = (tags[j].partition("-") if 0 <= j < len(tags) else ("O", "", "") for j in (i - 1, i))
        together = "O" not in (before[0], here[0]) and before[2] == here[2] and before[0] in "BI" and here[0] in "IE"
        if start >= 0 and not together:
            found.add((before[2], start, i - 1))
            start = -1
        if start < 0 and here[0] != "O":
            start = i
    return found


def strict(tags: list[str], begin: str, go_on: str, end: str, single: str) -> set[tuple[str, int, int]]:
    """Every stretch of one type that reads as the scheme writes a span, where no stretch around it does; by trying all."""

    def is_span(start: int, stop: int) -> bool:
        letters, types = zip(*((tag[0], tag[2:]) for tag in tags[start:stop]), strict=True)
        if "O" in letters or len(set(types)) > 1:
            return False
        if len(letters) == 1:
            return letters[0] == single
        return letters[0] == begin and letters[-1] == end and set(letters[1:-1]) <= {go_on}

    pairs = [(a, b) for a in range(len(tags)) for b in range(a + 1, len(tags) + 1) if is_span(a, b)]
    longest = [(a, b) for a, b in pairs if not any(c <= a and b <= d and (c, d) != (a, b) for c, d in pairs)]
    return {(tags[a][2:], a, b - 1) for a, b in longest}


def sentence(chance: random.Random, letters: str, length: int, types: tuple[str, ...] = ("PER", "LOC-X")) -> list[str]:
    return [
        letter if letter == "O" else f"{letter}-{chance.choice(types)}" for letter in chance.choices(letters, k=length)
    ]


def numbered(sentences: list[set[tuple[str, int, int]]]) -> set[tuple[int, str, int, int]]:
    return {(i, *span) for i, spans in enumerate(sentences) for span in spans}


def rates(given: set, wanted: set) -> tuple[float, float, float]:
    right = len(given & wanted)
    precision, recall = right / len(given) if given else 0.0, right / len(wanted) if wanted else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


@pytest.mark.parametrize("letters", ["BIO", "BIOOOO", "BIOES", "IO", "EIO", "BO"])
def test_a_thousand_cases_equal_the_slow_reader(letters: str) -> None:
    chance = random.Random(letters)
    for seed in range(1000):
        lengths = [chance.randint(0, 7) for _ in range(chance.randint(1, 3))] + [1]
        references, predicted = ([sentence(chance, letters, n) for n in lengths] for _ in range(2))
        predicted = references if seed % 10 == 0 else predicted
        given, wanted = numbered(list(map(lenient, predicted))), numbered(list(map(lenient, references)))
        found = sequences(predicted, references)
        names = ("precision", "recall", "f1")
        assert tuple(found.values[name] for name in names) == pytest.approx(rates(given, wanted)), (
            predicted,
            references,
        )
        for kind, *row in found.details.get("table", {"rows": []})["rows"]:
            of_kind = [{span for span in spans if span[1] == kind} for spans in (given, wanted)]
            assert row == [*map(pytest.approx, rates(*of_kind)), len(of_kind[1])], (predicted, references)


STRICT = {  # the letters of a scheme, and of those the first, inner, last and only one of a span
    "IOB2": ("BIO", "BIIB"),
    "IOE2": ("EIO", "IIEE"),
    "IOBES": ("BIOES", "BIES"),
    "BIOES": ("BIOES", "BIES"),
    "BILOU": ("BILOU", "BILU"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strict_spans_are_those_that_the_scheme_writes(scheme: str) -> None:
    chance, (letters, rule) = random.Random(scheme), STRICT[scheme]
    for _ in range(1000):
        tags = sentence(chance, letters, chance.randint(1, 7))
        assert read([tags], scheme) == numbered([strict(tags, *rule)]), tags


def test_bilou_is_read_as_bioes() -> None:
    chance = random.Random(1)
    for _ in range(200):
        tags = sentence(chance, "BILOU", 6)
        assert read([tags]) == read([[tag[0].translate(str.maketrans("LU", "ES")) + tag[1:] for tag in tags]])


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["O", "I-PER", "I-PER"], {("PER", 1, 2)}),
        (["B-PER", "I-LOC"], {("PER", 0, 0), ("LOC", 1, 1)}),
        (["B-PER", "B-PER"], {("PER", 0, 0), ("PER", 1, 1)}),
        (["B", "I", "O", "I"], {("_", 0, 1), ("_", 3, 3)}),
        (["U-PER", "U-PER", "B-LOC", "L-LOC"], {("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 3)}),
    ],
)
def test_borders_by_hand(tags: list[str], spans: set[tuple[str, int, int]]) -> None:
    assert read([tags]) == numbered([spans])


def test_a_span_does_not_reach_into_the_next_sentence() -> None:
    assert read([["B-PER"], ["I-PER"]]) == {(0, "PER", 0, 0), (1, "PER", 0, 0)}


def test_plain_tags_equal_scikit_learn() -> None:
    chance = random.Random(2)
    for _ in range(200):
        lengths = [chance.randint(0, 5) for _ in range(3)] + [2]
        tags = ["NOUN", "X", "-LRB-", "_", "I"][: chance.randint(1, 4)]
        references, predicted = ([chance.choices(tags, k=n) for n in lengths] for _ in range(2))
        wanted, given = sum(references, []), sum(predicted, [])
        values = sequences(predicted, references).values
        macro = sk.f1_score(wanted, given, average="macro", zero_division=0)
        assert values == {
            "token_accuracy": pytest.approx(sk.accuracy_score(wanted, given)),
            "f1_macro": pytest.approx(macro),
        }


def test_the_matrix_of_many_tags_shows_the_twenty_most_frequent() -> None:
    references = [[f"T{i}" for i in range(30) for _ in range(i + 1)]]
    found = sequences(references, references)
    assert set(found.details["confusion_matrix"]["labels"]) == {f"T{i}" for i in range(10, 30)}
    assert len(found.details["table"]["rows"]) == 30 and "20 most frequent of 30" in found.details["notes"][0]


def test_a_tag_without_prefix_among_span_tags_is_named_and_tags_are_compared_one_by_one() -> None:
    found = sequences([["B-PER", "PER"]], [["B-PER", "I-PER"]])
    assert set(found.values) == {"token_accuracy", "f1_macro"} and "PER has neither" in found.details["notes"][0]


def test_no_spans_and_no_tokens_are_said() -> None:
    outside = sequences([["O", "O"]], [["O", "O"]])
    assert outside.values == {"token_accuracy": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert "no spans" in outside.details["notes"][0]
    assert sequences([[]], [[]]).values == {} and sequences([], []).details["notes"]


@pytest.mark.parametrize(
    ("tags", "scheme", "told"),
    [
        (["S-PER", "O"], "IOB2", "S-PER: tags of IOB2"),
        (["NOUN"], "IOB2", "NOUN: tags"),
        (["O"], "IOB9", "no tagging scheme 'IOB9'"),
    ],
)
def test_a_tag_that_the_scheme_does_not_have_is_refused(tags: list[str], scheme: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        sequences([tags], [tags], scheme)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tags in (["B-PER", "I-LOC"], ["O"], ["NOUN"], ["B-PER", "PER"]):
            sequences([tags], [["O"] * len(tags)])
    assert capfd.readouterr() == ("", "")
