"""An answer is found where it stands, in whichever window of the context, and scored by the rules of SQuAD."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoder
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from launcher.data.context import Context, Tools
from launcher.data.labels import IGNORED
from launcher.errors import DataError, RecipeError
from launcher.schema import Data
from launcher.tasks.question_answering import Config, metrics, objective, rows
from launcher.tasks.question_answering.spans import answers

DATA = {"max_length": 24, "doc_stride": 5, "max_query_length": 8}


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


def tools_of(tokenizer: Any, labelled: bool = True, **data: Any) -> Tools:
    return Tools(tokenizer, Data(**{**DATA, **data}), "truncate", {}, labelled=labelled)


def made(examples: list[dict[str, Any]], tools: Tools) -> Rows:
    return Rows(row for number, one in enumerate(examples) for row in rows.rows(f"row {number}", one, tools))


def some(number: int, longest: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [tiny_encoder.question(chance, chance.randint(1, longest)) for _ in range(number)]


def context_of(tokenizer: Any, **data: Any) -> Context:
    return Context(tokenizer, Data(**{**DATA, **data}))


def test_windows_hold_all_of_the_context_and_share_a_stride(tokenizer: Any) -> None:
    for example in some(20):
        data = made([example], tools_of(tokenizer))
        whole = tokenizer(example["context"], add_special_tokens=False, return_offsets_mapping=True)
        tokens: list[tuple[int, tuple[int, int]]] = []
        for number, row in enumerate(data):
            offsets = zip(row["char_starts"], row["char_ends"], strict=True)
            found = list(zip(row["input_ids"][row["first_context"] :], offsets, strict=False))
            assert len(row["input_ids"]) <= DATA["max_length"] and row["window"] == number
            shared = DATA["doc_stride"] if number else 0
            assert tokens[len(tokens) - shared :] == found[:shared]
            tokens += found[shared:]
        assert tokens == list(zip(whole["input_ids"], whole["offset_mapping"], strict=True))


def test_the_answer_is_marked_in_each_window_that_holds_all_of_it(tokenizer: Any) -> None:
    held = 0
    for example in some(40):
        for row in made([example], tools_of(tokenizer)):
            right = example["answers"][0] if example["answers"] else None
            first, last = row["char_starts"][0], row["char_ends"][-1]
            if right and first <= right["answer_start"] and right["answer_start"] + len(right["text"]) <= last:
                start, end = row["start"] - row["first_context"], row["end"] - row["first_context"]
                spelt = example["context"][row["char_starts"][start] : row["char_ends"][end]]
                assert spelt == right["text"] and row["char_starts"][start] == right["answer_start"]
                held += 1
            else:
                assert (row["start"], row["end"]) == (0, 0)
    assert held > 20


def test_texts_are_kept_once_a_question(tokenizer: Any) -> None:
    (example,) = some(1, seed=4)
    example["context"] *= 20
    data = made([example], tools_of(tokenizer))
    assert len(data) > 20 and data[0]["context"] == example["context"]
    assert not any(row["context"] or row["question"] or row["answers"] for row in data[1:])


def test_nothing_is_learned_of_an_answer_that_no_window_holds(tokenizer: Any) -> None:
    """That the question has no answer would be wrong."""
    text = " ".join(["river"] * 40)
    tools = tools_of(tokenizer)
    data = made([{"question": "who?", "context": text, "answers": [{"text": text, "answer_start": 0}]}], tools)
    assert {(row["start"], row["end"]) for row in data} == {(-100, -100)}
    assert tools.counts["questions whose answer is in no window as a whole"] == 1
    batch = rows.collate([[index] for index in range(len(data))], data.read, context_of(tokenizer))
    assert objective.Objective(None, 30).counts(batch) == {"windows": 0.0}


def test_what_no_prediction_can_equal_is_counted(tokenizer: Any) -> None:
    inside = {"question": "who?", "context": "the berlin", "answers": [{"text": "berl", "answer_start": 4}]}
    long = {"question": "who?", "context": "the old river", "answers": [{"text": "the old river", "answer_start": 0}]}
    tools = tools_of(tokenizer, max_answer_length=2)
    made([inside, long], tools)
    assert tools.counts["answers that begin or end inside a token"] == 1
    assert tools.counts["answers longer than data.max_answer_length"] == 1


def test_a_long_question_loses_its_end_and_an_empty_one_is_named(tokenizer: Any) -> None:
    tools = tools_of(tokenizer, labelled=False)
    (row,) = made([{"question": "who sees the old river in berlin unriverly?", "context": "ada"}], tools)
    whole = tokenizer(row["question"])["input_ids"]
    assert row["input_ids"][: row["first_context"] - 1] == whole[: 1 + DATA["max_query_length"]]
    assert tools.counts["questions cut off"] == 1
    assert row["question"].endswith("unriverly?"), "the question is shown as it was asked"
    with pytest.raises(DataError, match="row 0: no token is left of the question"):
        made([{"question": " \u200d", "context": "ada"}], tools_of(tokenizer, labelled=False))


@pytest.mark.parametrize("stride", [13, 14, 30])
def test_windows_that_would_not_get_on_are_refused(tokenizer: Any, stride: int) -> None:
    """The tokenizer itself ends the process there. One less is fine."""
    with pytest.raises(RecipeError, match=f"data.doc_stride: windows cannot share {stride} tokens"):
        made(some(1), tools_of(tokenizer, doc_stride=stride))
    assert made(some(5), tools_of(tokenizer, doc_stride=12))


@pytest.mark.parametrize("size", [1, 4, 9])
def test_loss_and_gradients_are_those_of_plain_transformers_however_sliced(
    folder: Path, tokenizer: Any, size: int
) -> None:
    """The plain loss of each window by itself: among padding, transformers itself counts the padding as possible answers."""
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    context = context_of(tokenizer)
    data = made(some(5), tools_of(tokenizer))
    number = len(data)
    for index in range(number):
        batch = rows.collate([[index]], data.read, context)
        plain = {name: tensor for name, tensor in batch.items() if name not in ("is_context", "null_position")}
        (model(**plain).loss / number).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    built = objective.build(model, Config(), context)
    batches = [
        rows.collate([[index] for index in range(number)[start : start + size]], data.read, context)
        for start in range(0, number, size)
    ]
    assert sum(built.counts(batch)["windows"] for batch in batches) == number
    for batch in [*batches, rows.collate([], data.read, context)]:
        value, _, weight = built(**batch).terms["windows"]
        (weight * value / number).backward()
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-6), name


def slow_best(start: list[float], end: list[float], is_context: list[bool], longest: int) -> tuple[float, int, int]:
    """All pairs, one by one; of equal ones the first, and the shortest of those."""
    best = (-math.inf, 0, 0)
    for i in range(len(start)):
        for j in range(i, min(i + longest, len(end))):
            if is_context[i] and is_context[j] and start[i] + end[j] > best[0]:
                best = (start[i] + end[j], i, j)
    return best


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_likeliest_answer_is_the_best_of_all_pairs(longest: int) -> None:
    torch.manual_seed(0)
    start, end = (torch.randn(60, 11).mul(2).round().double() for _ in range(2))  # rounded: there are ties
    is_context = torch.rand(60, 11) > 0.4
    is_context[0] = False
    null = torch.randint(11, (60,))
    found = objective.likeliest(start, end, is_context, null, longest)
    for row in range(60):
        score, first, last = slow_best(start[row].tolist(), end[row].tolist(), is_context[row].tolist(), longest)
        assert found[row, 2] == score
        if score > -math.inf:
            assert found[row, :2].tolist() == [first, last]
        assert found[row, 3] == start[row, null[row]] + end[row, null[row]]
        every = sum(math.exp(a + b) for a in start[row].tolist() for b in end[row].tolist())
        assert float(found[row, 4]) == pytest.approx(math.log(every))


def test_a_question_takes_the_best_of_its_windows_and_none_by_the_threshold(tokenizer: Any) -> None:
    chance = np.random.default_rng(0)
    examples, abstained = some(30, seed=2), 0
    data = made(examples, tools_of(tokenizer))
    predictions, by_question = [], [[] for _ in examples]
    number = -1
    for row in data:
        number += row["window"] == 0
        first = int(chance.integers(len(row["char_starts"])))
        last = int(chance.integers(first, len(row["char_starts"])))
        score, none = chance.normal(size=2).round(1)
        predictions.append(np.array([first + row["first_context"], last + row["first_context"], score, none, 9.0]))
        by_question[number].append((score, none, row["char_starts"][first], row["char_ends"][last]))
    for threshold in (0.0, -1.5, None):
        found = list(answers(predictions, data))
        assert len(found) == len(examples)
        for one, example, windows in zip(found, examples, by_question, strict=True):
            best = max(windows, key=lambda window: window[0])
            is_none = threshold is not None and min(window[1] for window in windows) - best[0] > threshold
            assert one.text(threshold) == ("" if is_none else example["context"][best[2] : best[3]])
            abstained += is_none
    assert 10 < abstained < 50


def token_of(row: Mapping[str, Any], word: str) -> int:
    return row["first_context"] + row["char_starts"].index(row["context"].index(word))


def test_scores_tell_questions_with_an_answer_from_those_without(tokenizer: Any) -> None:
    """A model that never abstains is right where there is an answer, and wrong elsewhere; what is wrong is shown."""
    examples = some(24, longest=9)
    data = made(examples, tools_of(tokenizer))
    assert len(data) == len(examples)
    at = [(row["start"], row["end"]) if row["start"] else (token_of(row, "nobody"),) * 2 for row in data]
    predictions = [np.array([*place, 2.0, 1.0, 3.0]) for place in at]
    measured = metrics.summarize({"windows": (6.0, 4.0)}, predictions, data, context_of(tokenizer))
    without = sum(not one["answers"] for one in examples)
    assert 0 < without < 24
    assert measured.values["loss"] == 1.5
    assert measured.values["HasAns_exact"] == 1.0 and measured.values["NoAns_exact"] == 0.0
    assert measured.values["exact_match"] == pytest.approx(1 - without / 24)
    assert len(measured.details["errors"]) == without
    error = measured.details["errors"][0]
    assert error["reference"] == "no answer" and error["confidence"] == pytest.approx(math.exp(-1), abs=1e-4)
    assert error["predicted"] in examples[int(error["where"][4:])]["context"]
    strict = context_of(tokenizer, null_score_diff_threshold=-1.5)
    assert metrics.summarize({"windows": (6.0, 4.0)}, predictions, data, strict).values["NoAns_exact"] == 1.0
    (curve,) = measured.details["curves"]
    assert curve["lines"][0]["points"] == [[-1.0, pytest.approx(1 - without / 24)]]


def test_a_context_without_a_token_has_no_answer(tokenizer: Any) -> None:
    context = context_of(tokenizer, null_score_diff_threshold=None)
    data = made([{"id": "7", "question": "who?", "context": text} for text in ("", " ")], tools_of(tokenizer, False))
    batch = rows.collate([[0], [1]], data.read, context)
    logits = {name: torch.zeros(batch["input_ids"].shape) for name in ("start_logits", "end_logits")}
    said = list(metrics.said(objective.Objective(None, 30).predictions(logits, batch), data, context))
    assert [(one["id"], one["answer"], one["start"], one["end"]) for one in said] == [("7", "", None, None)] * 2


def test_chinese_answers_are_characters_of_the_text(tokenizer: Any) -> None:
    text = "人民在哪里春天在"
    example = {"question": "在哪里?", "context": text, "answers": [{"text": "春天", "answer_start": 5}]}
    data = made([example], tools_of(tokenizer))
    predictions = [np.array([data[0]["start"], data[0]["end"], 2.0, 1.0, 3.0])]
    (one,) = metrics.said(predictions, data, context_of(tokenizer))
    assert one["answer"] == "春天" == text[one["start"] : one["end"]]
    half = [np.array([data[0]["start"], data[0]["start"], 2.0, 1.0, 3.0])]
    measured = metrics.summarize({"windows": (1.0, 1.0)}, half, data, context_of(tokenizer))
    assert measured.values["exact_match"] == 0 and measured.values["f1"] == pytest.approx(2 / 3)


def test_data_from_which_nothing_can_be_learned_is_refused(tokenizer: Any) -> None:
    class Train:
        counts: dict[str, int] = {}

        def all(self, name: str) -> list[int]:
            return [IGNORED] * 3 if name == "start" else []

    context = Context(tokenizer, Data())
    with pytest.raises(DataError, match="no answer lies whole in a window"):
        rows.head(Train(), context)
