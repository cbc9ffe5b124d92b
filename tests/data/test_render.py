"""Masks of conversations, written out by hand: « and » stand around what is trained."""

import byte_tokenizer as bt
import pytest

from launcher.data import render
from launcher.errors import DataError

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "我很好"},
]
SYSTEM = {"role": "system", "content": "Sing."}
S, E = "<|im_start|>", "<|im_end|>"

GOLDEN = {
    "chatml": (
        bt.CHATML,
        f"{S}system\nBe kind.{E}\n{S}user\nHi{E}\n{S}assistant\n«Yes{E}\n»{S}user\n你好{E}\n{S}assistant\n«我很好{E}\n»",
    ),
    "llama3": (
        bt.LLAMA3,
        "<s><|header|>user<|header|>\n\nHi<|eot|><|header|>assistant<|header|>\n\n«Yes<|eot|>»"
        "<|header|>user<|header|>\n\n你好<|eot|><|header|>assistant<|header|>\n\n«我很好<|eot|>»",
    ),
    "gemma": (
        bt.GEMMA,
        f"<s>{S}user\nHi{E}\n{S}model\n«Yes{E}\n»{S}user\n你好{E}\n{S}model\n«我很好{E}\n»",
    ),
    "mistral": (bt.MISTRAL, "<s>[INST] Hi[/INST]« Yes</s>»[INST] 你好[/INST]« 我很好</s>»"),
    "phi": (
        bt.PHI,
        f"<|header|>user\nHi{E}\n<|header|>assistant\n«Yes{E}\n»<|header|>user\n你好{E}\n<|header|>assistant\n«我很好{E}\n</s>»",
    ),
    "generation marks": (
        bt.MARKED,
        f"{S}user\nHi{E}\n{S}assistant\n«Yes{E}»{S}user\n你好{E}\n{S}assistant\n«<think></think>我很好{E}»",
    ),
}


def mask(template: str, messages: list[dict[str, str]], loss_on: str = "assistant", **options: object) -> str:
    tokenizer = bt.make(template, adds_bos=True)
    return bt.shown(tokenizer, render.chat(messages, tokenizer, loss_on, "here:1", **options))


@pytest.mark.parametrize("name", GOLDEN)
def test_answers_and_their_terminators_are_trained_and_nothing_else(name: str) -> None:
    template, golden = GOLDEN[name]
    assert mask(template, TALK) == golden


@pytest.mark.parametrize("name", GOLDEN)
def test_completion_trains_the_last_turn_only(name: str) -> None:
    template, golden = GOLDEN[name]
    head, tail = golden.rsplit("«", 1)
    assert mask(template, TALK, "completion") == head.replace("«", "").replace("»", "") + "«" + tail


def test_all_trains_every_token_the_inserted_system_prompt_too() -> None:
    assert mask(bt.CHATML, TALK[:2], "all") == f"«{S}system\nBe kind.{E}\n{S}user\nHi{E}\n{S}assistant\nYes{E}\n»"


def test_a_given_system_prompt_is_not_trained() -> None:
    expected = f"{S}system\nSing.{E}\n{S}user\nHi{E}\n{S}assistant\n«Yes{E}\n»"
    assert mask(bt.CHATML, [SYSTEM, *TALK[:2]]) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (bt.CHATML, f"{S}system\nBe kind.{E}\n{S}assistant\n«Yes{E}\n»{S}user\n你好{E}\n{S}assistant\n«我很好{E}\n»"),
        (bt.MISTRAL, "<s> «Yes</s>»[INST] 你好[/INST]« 我很好</s>»"),
        (bt.PHI, f"<|header|>assistant\n«Yes{E}\n»<|header|>user\n你好{E}\n<|header|>assistant\n«我很好{E}\n</s>»"),
    ],
)
def test_an_assistant_who_speaks_first_is_trained_without_the_inserted_system_prompt(
    template: str, expected: str
) -> None:
    tokenizer = bt.make(template)
    found = bt.shown(tokenizer, render.chat(TALK[1:], tokenizer, "assistant", "here:1"))
    assert (
        found.replace("« Yes", " «Yes") == expected
    )  # whether the space is a token of its own is the tokenizer's affair


def test_a_template_that_trims_answers_still_gets_them_trained() -> None:
    talk = [TALK[0], {"role": "assistant", "content": "  Yes \n"}, *TALK[2:]]
    assert mask(bt.LLAMA3, talk) == GOLDEN["llama3"][1]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_place_and_ways_out() -> None:
    with pytest.raises(DataError, match=r"^data\.jsonl:7: the chat template writes turn 1 otherwise") as caught:
        render.chat(TALK, bt.make(bt.FORGETFUL), "assistant", "data.jsonl:7")
    assert "loss_on: completion" in str(caught.value)
    expected = f"{S}user\nHi{E}\n{S}assistant\nYes{E}\n{S}user\n你好{E}\n{S}assistant\n«<think></think>我很好{E}\n»"
    assert mask(bt.FORGETFUL, TALK, "completion") == expected


def test_a_token_that_holds_the_prompts_last_space_and_the_answers_first_word_is_trained() -> None:
    tokenizer = bt.make(bt.PLAIN)
    assert len(tokenizer(" Yes")["input_ids"]) == 1, "the tokenizer must merge the space for this test to mean anything"
    tokens = render.chat(TALK[:2], tokenizer, "assistant", "here:1")
    assert bt.shown(tokenizer, tokens) == "User: Hi\nAssistant:« Yes\n»"


def test_a_token_that_reaches_into_the_next_prompt_is_not_trained() -> None:
    assert render._inside([(0, 2), (2, 4), (4, 6), (6, 6)], [(2, 5)]) == [0, 1, 0, 0]


def test_all_bytes_of_a_character_are_on_one_side() -> None:
    tokenizer = bt.make(bt.CHATML)
    talk = [{"role": "user", "content": "龘"}, {"role": "assistant", "content": "龘"}]
    tokens = render.chat(talk, tokenizer, "assistant", "here:1")
    end = tokenizer.convert_tokens_to_ids(E)
    closing = len(tokens.ids) - 1 - tokens.ids[::-1].index(end)
    assert tokens.trained[closing - 3 : closing + 1] == [1, 1, 1, 1]
    assert sum(tokens.trained) == 5  # three bytes, the terminator, the line end


def test_the_beginning_of_sequence_stands_once_though_template_and_tokenizer_both_write_it() -> None:
    tokenizer = bt.make(bt.LLAMA3, adds_bos=True)
    assert tokenizer("Hi")["input_ids"][0] == tokenizer.bos_token_id
    tokens = render.chat(TALK, tokenizer, "assistant", "here:1")
    assert tokens.ids.count(tokenizer.bos_token_id) == 1


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:3: .*System role not supported"):
        render.chat([SYSTEM, *TALK], bt.make(bt.GEMMA), "assistant", "a.jsonl:3")
    adds = "{% for m in messages %}{{ m.content + m.n + '' }}{% endfor %}"
    with pytest.raises(DataError, match=r"^a\.jsonl:3: .*refuses"):
        render.chat([{"role": "user", "content": "x", "n": 1}], bt.make(adds), "all", "a.jsonl:3")
    with pytest.raises(DataError, match="no chat template"):
        render.chat(TALK, bt.make(), "assistant", "a.jsonl:3")


def test_a_template_that_marks_an_answer_twice_is_refused() -> None:
    twice = (
        "{% for m in messages %}{% generation %}a{% endgeneration %}{% generation %}b{% endgeneration %}{% endfor %}"
    )
    with pytest.raises(DataError, match="marks 4 spans as generation and there are 1 assistant"):
        render.chat(TALK[:2], bt.make(twice), "assistant", "a.jsonl:3")


def test_tools_are_written_into_the_prompt_and_not_trained() -> None:
    found = mask(bt.TOOLS, TALK[:2], tools=[{"name": "clock"}])
    assert found.startswith('<|header|>[{"name": "clock"}]<|header|>')
    assert found.count("«") == 1 and found.endswith(f"«Yes{E}\n»")


def test_without_assistant_turns_nothing_is_trained() -> None:
    assert "«" not in mask(bt.CHATML, TALK[:1])
    assert "«" not in mask(bt.CHATML, TALK[:3], "completion")
    assert "«" not in mask(bt.MARKED, TALK[:3], "completion")


def test_the_answers_prompt_is_the_beginning_of_the_trained_text() -> None:
    for template in (bt.CHATML, bt.LLAMA3, bt.GEMMA, bt.MISTRAL, bt.PHI):
        tokenizer = bt.make(template)
        full = tokenizer.apply_chat_template(TALK, tokenize=False)
        assert full.startswith(render.prompt_text(TALK[:3], tokenizer))


@pytest.mark.parametrize("adds_eos", [False, True])
def test_a_text_ends_in_exactly_one_end_of_sequence_token(adds_eos: bool) -> None:
    tokens = render.text("the answer", bt.make(adds_bos=True, adds_eos=adds_eos))
    assert (tokens.ids[0], tokens.ids[-1], tokens.ids.count(1)) == (0, 1, 1)
    assert tokens.trained == [1] * len(tokens.ids)


@pytest.mark.parametrize("adds_eos", [False, True])
def test_a_completion_follows_its_prompt_without_special_tokens_between(adds_eos: bool) -> None:
    tokenizer = bt.make(adds_bos=True, adds_eos=adds_eos)
    assert (
        bt.shown(tokenizer, render.prompt_completion("User: Hi", " Yes", tokenizer, "completion"))
        == "<s>User: Hi« Yes</s>»"
    )
    assert (
        bt.shown(tokenizer, render.prompt_completion("User: Hi", " Yes", tokenizer, "all")) == "«<s>User: Hi Yes</s>»"
    )
