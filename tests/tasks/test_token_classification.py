"""The tag of a word stands on its first piece, whatever the tokenizer makes of the words, and every word counts."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoder
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedTokenizerFast

from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.errors import DataError
from launcher.schema import Data
from launcher.tasks.token_classification import Config, metrics, objective, rows
from launcher.tasks.token_classification.windows import windows

TAGS = Labels.found(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.save(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


class Rows(list[Mapping[str, Any]]):
    """Prepared rows, as the machinery reads them."""

    def read(self, index: int, names: Any = None) -> dict[str, Any]:
        return {name: self[index][name] for name in names or self[index]}

    def all(self, name: str) -> list[Any]:
        return [row[name] for row in self]


def tools_of(tokenizer: Any, on_truncate: str = "split", max_length: int = 64, **more: Any) -> Tools:
    more = {"labels": TAGS, **more}
    return Tools(tokenizer, Data(max_length=max_length), on_truncate, {}, **more)


def made(examples: list[dict[str, Any]], tools: Tools) -> Rows:
    return Rows(row for number, one in enumerate(examples) for row in rows.rows(f"row {number}", one, tools))


def some(number: int, longest: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [tiny_encoder.sentence(chance, chance.randint(1, longest)) for _ in range(number)]


def context_of(tokenizer: Any, counts: tuple[int, ...] = ()) -> Context:
    return Context(tokenizer, Data(), 0, TAGS, counts, {})


def test_a_tag_stands_on_the_first_piece_of_its_word_and_no_word_is_lost(tokenizer: Any) -> None:
    """Word for word with the tokenizer alone; the joiner, of which it leaves nothing, is an unknown word."""
    for example in some(30):
        (row,) = made([example], tools_of(tokenizer))
        words = ["[UNK]" if word == "\u200d" else word for word in example["tokens"]]
        pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        assert row["input_ids"] == [2, *sum(pieces, []), 3]
        assert row["starts"] == (np.cumsum([1, *map(len, pieces)])[:-1]).tolist()
        batch = rows.collate([[0]], Rows([row]).read, context_of(tokenizer))
        on_words = batch["labels"][0][batch["is_word"][0] == 1].tolist()
        assert [TAGS.names[number] for number in on_words] == example["tags"]
        assert (batch["labels"][batch["is_word"] == 0] == -100).all()


def test_words_have_the_pieces_that_they_have_in_running_text() -> None:
    """A tokenizer of bytes without a space added would read a second word as the end of the first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(["the old river"] * 9, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    words = ["the", "old", "river"]
    assert tokenizer(words, is_split_into_words=True)["input_ids"] != tokenizer("the old river")["input_ids"]
    (row,) = made([{"tokens": words, "tags": ["O"] * 3}], tools_of(tokenizer))
    assert row["input_ids"] == tokenizer("the old river")["input_ids"]
    assert len(set(row["starts"])) == 3


@pytest.mark.parametrize("seed", range(50))
def test_windows_own_each_word_once_and_fit(seed: int) -> None:
    chance = random.Random(seed)
    room = chance.randint(1, 20)
    pieces = [min(room, chance.choice([1, 1, 2, room, chance.randint(1, room)])) for _ in range(chance.randint(1, 60))]
    found = list(windows(pieces, room))
    assert [word for one in found for word in range(one.own_first, one.own_last)] == list(range(len(pieces)))
    for one in found:
        assert one.first <= one.own_first < one.own_last <= one.last
        assert sum(pieces[one.first : one.last]) <= room
        assert sum(pieces[one.first : one.own_first]) <= room // 4
        assert sum(pieces[one.own_last : one.last]) <= room // 4
    if set(pieces) == {1} and room >= 4:
        assert all(one.last - one.own_last == room // 4 for one in found[:-1])


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"class_weights": {"O": 0.3, "B-LOC": 2.0}}])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_loss_and_gradients_are_those_of_plain_transformers_however_sliced(
    folder: Path, tokenizer: Any, options: dict[str, Any], size: int
) -> None:
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=len(TAGS)).eval()
    context = context_of(tokenizer)
    data = made(some(7), tools_of(tokenizer))
    whole = rows.collate([[index] for index in range(7)], data.read, context)
    plain = {name: tensor for name, tensor in whole.items() if name != "is_word"}
    if options:
        weights = torch.tensor([options.get("class_weights", {}).get(name, 1.0) for name in TAGS.names])
        logits = model(**{name: tensor for name, tensor in plain.items() if name != "labels"}).logits
        wanted = by_hand(logits, plain["labels"], weights, options.get("label_smoothing", 0.0))
    else:
        wanted = model(**plain).loss
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    built = objective.build(model, Config.model_validate(options), context)
    batches = [
        rows.collate([[index] for index in range(7)[start : start + size]], data.read, context)
        for start in range(0, 7, size)
    ]
    count = sum(built.counts(batch)["words"] for batch in batches)
    total = 0.0
    for batch in [*batches, rows.collate([], data.read, context)]:
        value, _, weight = built(**batch).terms["words"]
        (weight * value / count).backward()
        total += float((weight * value / count).detach())
    assert total == pytest.approx(float(wanted.detach()), rel=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-6), name


def by_hand(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Weighted mean, word by word."""
    above, below = torch.zeros(()), 0.0
    for row in range(labels.shape[0]):
        for place in range(labels.shape[1]):
            tag = int(labels[row, place])
            if tag >= 0:
                said = logits[row, place].log_softmax(-1)
                spread = -(weights * said).sum() * smoothing / len(weights)
                above = above - (1 - smoothing) * weights[tag] * said[tag] + spread
                below += float(weights[tag])
    return above / below


def perfect(data: Rows, context: Context) -> list[np.ndarray]:
    """What a model that is always right predicts."""
    batch = rows.collate([[index] for index in range(len(data))], data.read, context)
    shape = (*batch["labels"].shape, len(TAGS))
    logits = torch.full(shape, -20.0).scatter(-1, batch["labels"].clamp(0)[..., None], 20.0)
    return objective.Objective(None, Config()).predictions({"logits": logits}, batch)


def test_what_is_split_is_whole_again(tokenizer: Any) -> None:
    context, examples = context_of(tokenizer), some(9, longest=60, seed=3)
    data = made(examples, tools_of(tokenizer, max_length=16))
    assert len(data) > 2 * len(examples)
    assert max(len(row["input_ids"]) for row in data) <= 16
    found = list(metrics.sentences(perfect(data, context), data, context))
    assert [(one.tokens, one.references) for one in found] == [(one["tokens"], one["tags"]) for one in examples]
    measured = metrics.summarize({"words": (1.0, 1.0)}, perfect(data, context), data, context)
    assert measured.values["f1"] == measured.values["token_accuracy"] == 1.0
    assert measured.details["errors"] == []


def test_truncated_words_are_missed_in_the_scores_and_named(tokenizer: Any) -> None:
    context = context_of(tokenizer)
    tools = tools_of(tokenizer, "truncate", max_length=6)
    data = made([{"tokens": ["berlin"] * 9, "tags": ["B-LOC"] * 9}, {"tokens": ["ada"], "tags": ["B-PER"]}], tools)
    assert len(data) == 2 and tools.counts["words without a token"] == 5
    measured = metrics.summarize({"words": (1.0, 1.0)}, perfect(data, context), data, context)
    assert measured.values["recall"] == 5 / 10 and measured.values["precision"] == 1.0
    assert measured.values["token_accuracy"] == 5 / 10
    assert any("5 of 10 words have no token" in note for note in measured.details["notes"])


def test_a_sentence_that_is_too_long_is_refused_or_dropped_as_asked(tokenizer: Any) -> None:
    long = {"tokens": ["berlin"] * 9, "tags": ["B-LOC"] * 9}
    with pytest.raises(DataError, match="row 0: 11 tokens, more than data.max_length 6"):
        made([long], tools_of(tokenizer, "error", max_length=6))
    tools = tools_of(tokenizer, "drop", max_length=6)
    assert made([long], tools) == [] and tools.counts["rows dropped as too long"] == 1


def test_a_word_longer_than_a_row_is_cut_and_its_neighbours_stay(tokenizer: Any) -> None:
    example = {"tokens": ["ada", "x" * 50, "berlin"], "tags": ["B-PER", "O", "B-LOC"]}
    data = made([example], tools_of(tokenizer, max_length=10))
    assert [word for row in data for word in row["tokens"]] == example["tokens"]
    assert all(len(row["input_ids"]) <= 10 and min(row["starts"]) > 0 for row in data)


def test_a_word_without_a_token_and_without_a_token_for_the_unknown_counts_as_outside(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, unk_token=None)
    data = made([{"tokens": ["ada", "\u200d", "berlin"], "tags": ["B-PER", "O", "B-LOC"]}], tools_of(tokenizer))
    context = context_of(tokenizer)
    assert data[0]["starts"] == [1, -1, 2]
    (one,) = metrics.sentences(perfect(data, context), data, context)
    assert one.predicted == ["B-PER", "O", "B-LOC"]


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        ({"tokens": ["ada", "rome"], "tags": ["B-PER", "B-LCO"]}, "row 0 token 1: the label 'B-LCO'.*B-LOC"),
        ({"tokens": [], "tags": []}, "row 0: there are no words"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tokenizer: Any, example: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        made([example], tools_of(tokenizer))


def test_scores_are_those_of_seqeval_and_the_worst_sentences_come_first(tokenizer: Any) -> None:
    context, chance = context_of(tokenizer), random.Random(1)
    examples = some(40, seed=5)
    data = made(examples, tools_of(tokenizer, max_length=12))
    guesses = [
        np.array([[chance.randrange(len(TAGS)), chance.random()] for _ in row["tokens"]], np.float32) for row in data
    ]
    tags = [one.predicted for one in metrics.sentences(guesses, data, context)]
    references = [one["tags"] for one in examples]
    measured = metrics.summarize({"words": (6.0, 4.0)}, guesses, data, context)
    assert measured.values["loss"] == 1.5
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert measured.values[name] == pytest.approx(score(references, tags))
    numbers = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in zip(tags, references, strict=True)]
    assert [one["wrong tags"] for one in measured.details["errors"]] == sorted(numbers, reverse=True)[:20]
    worst = measured.details["errors"][0]
    assert worst["where"] == f"row {np.argmax(numbers)}" or numbers.count(max(numbers)) > 1
    assert all(f"/{tag}" in worst["reference"] for tag in set(references[int(worst["where"][4:])]) - {"O"})


@pytest.mark.parametrize(
    "example", [{"text": " ada  sees\tnew   berlin."}, {"tokens": ["ada", "sees", "new", "berlin."]}]
)
def test_entities_stand_where_they_say(tokenizer: Any, example: dict[str, Any]) -> None:
    data = made([example], tools_of(tokenizer, max_length=6, labelled=False))
    numbers = [TAGS.numbers[tag] for tag in ("B-PER", "O", "B-LOC", "I-LOC")]
    scores = [0.9, 1.0, 0.5, 0.7]
    context, pairs = context_of(tokenizer), iter(zip(numbers, scores, strict=True))
    said = list(metrics.said([np.array([next(pairs) for _ in row["tokens"]]) for row in data], data, context))
    (one,) = said
    assert one["tokens"] == ["ada", "sees", "new", "berlin."] and one["tags"] == ["B-PER", "O", "B-LOC", "I-LOC"]
    person, place = one["entities"]
    assert (person["type"], place["type"], place["score"]) == ("PER", "LOC", 0.6)
    assert person["text"] == "ada" and place["text"].split() == ["new", "berlin."]
    for entity in one["entities"]:
        assert one["text"][entity["start"] : entity["end"]] == entity["text"]


def test_parts_of_speech_have_no_entities(tokenizer: Any) -> None:
    labels = Labels.found(["NOUN", "VERB"])
    data = made([{"tokens": ["ada", "sees"]}], tools_of(tokenizer, labels=labels, labelled=False))
    context = Context(tokenizer, Data(), 0, labels, (), {})
    (one,) = metrics.said([np.array([[0, 0.9], [1, 0.8]])], data, context)
    assert one["tags"] == ["NOUN", "VERB"] and one["entities"] == []
