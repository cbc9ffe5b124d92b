"""What becomes of an example: each policy for long rows, the counts, and the questions for generation."""

from typing import Any

import byte_tokenizer as bt
import pytest

from launcher.data.context import Context, Tools
from launcher.errors import DataError
from launcher.generation import Generation, Question
from launcher.schema import Data
from launcher.tasks.causal_lm import answers
from launcher.tasks.causal_lm.rows import rows

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


def made(
    example: dict[str, Any], template: str = bt.CHATML, **data: Any
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    tools = Tools(bt.make(template), Data.model_validate(data), data.get("on_truncate", "drop"), {})
    return list(rows("here:1", example, tools)), tools.counts


def trained_text(row: dict[str, Any]) -> str:
    kept = [id_ for id_, trained in zip(row["input_ids"], row["trained"], strict=True) if trained]
    return str(bt.make().decode(kept))


def length(text: str) -> int:
    return len(bt.make()(text)["input_ids"])


def test_a_row_of_exactly_max_length_is_kept_and_one_token_more_is_too_long() -> None:
    size = length("User: Hi\n") + 1
    found, counts = made({"text": "User: Hi\n"}, max_length=size)
    assert counts == {"rows read": 1, "rows kept": 1, "tokens": size, "trained tokens": size - 1}
    assert len(found[0]["input_ids"]) == size
    assert made({"text": "User: Hi\n"}, max_length=size - 1) == ([], {"rows read": 1, "rows dropped as too long": 1})


def test_error_names_the_row_and_both_lengths() -> None:
    with pytest.raises(DataError, match=r"^here:1: \d+ tokens, more than data\.max_length 3; see data\.on_truncate"):
        made({"text": "xyzxyzxyz"}, max_length=3, on_truncate="error")


def test_truncate_keeps_the_beginning_and_counts() -> None:
    whole, _ = made({"prompt": "xyz", "completion": "uvwuvw"})
    cut, counts = made({"prompt": "xyz", "completion": "uvwuvw"}, max_length=5, on_truncate="truncate")
    assert cut == [{name: values[:5] for name, values in whole[0].items()}]
    assert counts == {"rows read": 1, "rows truncated": 1, "rows kept": 1, "tokens": 5, "trained tokens": 2}


def test_a_row_whose_answer_was_cut_away_teaches_nothing_and_is_dropped() -> None:
    found, counts = made({"prompt": "xyz", "completion": "uvw"}, max_length=3, on_truncate="truncate")
    assert found == []
    assert counts == {"rows read": 1, "rows truncated": 1, "rows dropped without a token to train on": 1}


@pytest.mark.parametrize("example", [{"messages": TALK[:1]}, {"text": ""}])
def test_an_example_without_a_target_is_dropped_and_counted(example: dict[str, Any]) -> None:
    assert made(example) == ([], {"rows read": 1, "rows dropped without a token to train on": 1})


@pytest.mark.parametrize("limit", [2, 3, 5, 8, 20, 21, 22, 100])
def test_split_makes_every_token_but_the_first_a_target_once(limit: int) -> None:
    text = "zyxwvutsrqponmlkjihg"
    whole = made({"text": text})[0][0]["input_ids"]
    assert len(whole) == 21
    pieces, counts = made({"text": text}, max_length=limit, on_truncate="split")
    assert all(2 <= len(piece["input_ids"]) <= limit for piece in pieces)
    assert [target for piece in pieces for target in piece["input_ids"][1:]] == whole[1:]
    assert all(piece["trained"] == [1] * len(piece["input_ids"]) for piece in pieces)
    assert counts["trained tokens"] == 20 and counts["rows kept"] == len(pieces)
    assert counts.get("rows split", 0) == (limit < 21)


def test_split_is_refused_for_what_is_not_plain_text_and_harmless_for_one_token() -> None:
    with pytest.raises(DataError, match="here:1: only plain text can be split"):
        made({"prompt": "xyz", "completion": "uvw"}, max_length=3, on_truncate="split")
    assert made({"text": "xyz"}, max_length=1, on_truncate="split")[0] == []


EARLIER = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, *TALK]


@pytest.mark.parametrize(
    ("example", "loss_on", "expected"),
    [
        ({"messages": EARLIER}, None, "B<|im_end|>\nYes<|im_end|>\n"),
        ({"messages": EARLIER}, "completion", "Yes<|im_end|>\n"),
        ({"messages": EARLIER, "completion_turns": 1}, None, "Yes<|im_end|>\n"),
        ({"messages": EARLIER, "completion_turns": 3}, None, "B<|im_end|>\nYes<|im_end|>\n"),
        ({"messages": EARLIER, "completion_turns": 1}, "assistant", "B<|im_end|>\nYes<|im_end|>\n"),
        ({"prompt": "A", "completion": "B"}, None, "B</s>"),
        ({"prompt": "A", "completion": "B"}, "all", "AB</s>"),
        ({"text": "A"}, None, "A</s>"),
    ],
)
def test_what_is_trained_follows_from_the_kind_unless_the_recipe_says(
    example: dict[str, Any], loss_on: str | None, expected: str
) -> None:
    found, counts = made(example, loss_on=loss_on)
    assert trained_text(found[0]) == expected
    assert counts["trained tokens"] == sum(found[0]["trained"][1:])


def test_tools_that_a_template_leaves_out_are_counted() -> None:
    example = {"messages": TALK, "tools": [{"name": "clock"}]}
    assert made(example)[1]["rows whose tools the chat template leaves out"] == 1
    found, counts = made(example, bt.TOOLS)
    assert counts["rows kept"] == 1 and not any("tools" in name for name in counts)
    assert "clock" in bt.make().decode(found[0]["input_ids"])


def test_questions_ask_for_the_last_answer_with_the_prompt_as_trained() -> None:
    tokenizer = bt.make(bt.CHATML)
    examples = [{"messages": [*EARLIER, TALK[0]]}, {"messages": TALK[1:]}, {"prompt": "A", "completion": "B"}]
    chat, completion = answers.questions([("here", example) for example in examples], context(tokenizer))
    assert (chat.shown, chat.reference) == ("Hi", "Yes")
    trained = tokenizer.apply_chat_template(EARLIER, tokenize=False)
    assert trained == chat.prompt + "Yes<|im_end|>\n"
    assert completion == Question("A", "A", "B", "here")


@pytest.mark.parametrize("text", ["the answer is yes " * 200, "你好吗我很好" * 200])
def test_a_text_is_asked_to_go_on_whether_or_not_its_script_has_spaces(text: str) -> None:
    question = answers.questions([("", {"text": text})], context(bt.make()))[0]
    assert length(question.prompt) == pytest.approx(answers.TEXT_PROMPT_TOKENS, abs=2)
    assert text.startswith(question.prompt + question.reference)
    assert length(question.reference) == pytest.approx(3 * answers.TEXT_PROMPT_TOKENS, abs=2)


def test_a_short_text_is_asked_whole() -> None:
    assert answers.questions([("", {"text": "Hi"})], context(bt.make()))[0] == Question("Hi", "Hi", "")


def context(tokenizer: Any) -> Context:
    return Context(tokenizer, Data())


class Echo:
    """A stand-in model that answers with the last token that it sees, twice; notes what it was given."""

    def __init__(self, positions: int | None):
        self.training, self.device, self.seen = True, "cpu", []
        self.config = type("Config", (), {"max_position_embeddings": positions})()
        self.config.get_text_config = lambda: self.config

    def train(self, mode: bool) -> None:
        self.training = mode

    def eval(self) -> None:
        self.training = False

    def generate(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        import torch

        self.seen += [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        return torch.cat([input_ids, input_ids[:, -1:], input_ids[:, -1:]], dim=1)


def ask(prompts: list[str], positions: int | None = None, **options: Any) -> tuple[list[str], Echo]:
    tokenizer, model = bt.make(bt.LLAMA3, adds_bos=True, **options), Echo(positions)
    given = context(tokenizer)
    asked = [Question(p, p, "") for p in prompts] + [answers.ask("Hi", {"messages": []}, given)]
    return answers.answers(model, asked, given, Generation(4, batch_size=2)), model


@pytest.mark.parametrize("adds_eos", [False, True])
def test_prompts_reach_the_model_whole_and_their_answers_come_back_in_order(adds_eos: bool) -> None:
    said, model = ask(["x", "yyyy", "zz"], adds_eos=adds_eos)
    assert said[:3] == ["xx", "yy", "zz"]
    texts = [bt.make().decode(ids) for ids in model.seen]
    chat = "<s><|header|>user<|header|>\n\nHi<|eot|><|header|>assistant<|header|>\n\n"
    assert texts == ["<s>x", "<s>yyyy", "<s>zz", chat]
    assert model.training


def test_a_prompt_without_room_for_an_answer_is_asked_by_its_end() -> None:
    said, model = ask(["xyzxyzxyzw"], positions=10)
    assert said[0] == "ww" and max(map(len, model.seen)) == 6


def test_a_prompt_of_nothing_can_be_asked() -> None:
    tokenizer, model = bt.make(), Echo(None)
    assert len(answers.answers(model, [Question("", "", "")], context(tokenizer), Generation(4))) == 1
