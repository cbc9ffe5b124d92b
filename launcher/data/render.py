"""Examples to token ids, and which of them are trained on.

Works with any fast Hugging Face tokenizer. A conversation is rendered once as text by the chat template, its trained
spans are found in that text, and the spans are carried over to tokens by the tokenizer's offsets, so that no token is
ever made from a fragment that the model would not see at inference.
"""

import os
import re
from functools import partial
from typing import Any, NamedTuple

from launcher.errors import DataError

Messages = list[dict[str, Any]]
Span = tuple[int, int]  # characters [start, stop)


class Tokens(NamedTuple):
    """`ids` and, of the same length, `trained`: 1 where the token is a target of the loss."""

    ids: list[int]
    trained: list[int]


def text(document: str, tokenizer: Any) -> Tokens:
    """Plain text closed by the end-of-sequence token; every token is trained on."""
    ids = tokenizer(document, add_special_tokens=True, verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids = [*ids, tokenizer.eos_token_id]
    return Tokens(ids, [1] * len(ids))


def prompt_completion(prompt: str, completion: str, tokenizer: Any, loss_on: str) -> Tokens:
    """The two parts are tokenised apart, as at inference, where the prompt stands alone."""
    before = tokenizer(prompt, add_special_tokens=True, verbose=False)["input_ids"]
    if before and before[-1] == tokenizer.eos_token_id:  # some tokenizers close every text; this one goes on
        before = before[:-1]
    after = tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None:
        after = [*after, tokenizer.eos_token_id]
    return Tokens(before + after, [int(loss_on == "all")] * len(before) + [1] * len(after))


def chat(
    messages: Messages,
    tokenizer: Any,
    loss_on: str,
    where: str,
    completion_turns: int = 1,
    tools: list[Any] | None = None,
) -> Tokens:
    """`loss_on`: `assistant` trains on every assistant turn, `completion` on those of the last `completion_turns`."""
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template", where=where, fix="give one under tokenizer.chat_template")
    say = partial(_written, tokenizer, tools, where)
    first = len(messages) - completion_turns if loss_on == "completion" else 0
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i >= first]
    if loss_on == "all":
        full = say(messages)
        spans = [(0, len(full))]
    elif _GENERATION.search(tokenizer.get_chat_template(tools=tools)):
        full, spans = _marked(messages, len(turns), tokenizer, tools, where)
    else:
        full = say(messages)
        spans = [_turn_span(messages, i, full, say, where) for i in turns]
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return Tokens(encoded["input_ids"], _inside(encoded["offset_mapping"], spans))


def prompt_text(messages: Messages, tokenizer: Any, tools: list[Any] | None = None) -> str:
    """What the model sees before it answers: the conversation and the opening of the assistant's turn."""
    return _written(tokenizer, tools, "", messages, add_generation_prompt=True)


def _written(tokenizer: Any, tools: Any, where: str, messages: Messages, add_generation_prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text
    except (TemplateError, TypeError) as error:  # TypeError: the template adds or indexes what this message lacks
        raise DataError(f"the chat template refuses this conversation: {error}", where=where) from None


# --- which characters are the assistant's -----------------------------------------------------------------------------

_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


def _marked(messages: Messages, num_turns: int, tokenizer: Any, tools: Any, where: str) -> tuple[str, list[Span]]:
    """The text, and spans of the last `num_turns` answers, of a template that marks them itself ({% generation %})."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _written(tokenizer, tools, where, messages)  # for its error message
    render: Any = render_jinja_template  # its annotations are wrong
    texts, marked = render(
        conversations=[messages],
        tools=tools,
        chat_template=tokenizer.get_chat_template(tools=tools),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    num_answers = sum(message["role"] == "assistant" for message in messages)
    if len(marked[0]) != num_answers:
        raise DataError(
            f"the chat template marks {len(marked[0])} spans as generation and there are {num_answers} assistant turns",
            where=where,
            fix="put each whole answer into one generation block",
        )
    return str(texts[0]), marked[0][num_answers - num_turns :]


def _turn_span(messages: Messages, i: int, full: str, say: Any, where: str) -> Span:
    """Turn i's answer and its terminator: what the template adds behind the opening of the turn."""
    closing = say(messages[: i + 1])
    answer = str(messages[i].get("content") or "").strip()
    opening = say(messages[:i], add_generation_prompt=True) if i else _first_opening(closing, answer, say)
    start, stop = len(opening), len(closing)
    is_whole = full.startswith(closing)
    if not is_whole:  # some templates end every text in a way of their own; that tail is not part of the turn
        stop = len(os.path.commonprefix([full, closing]))
        is_whole = answer != "" and answer in full[start:stop]
    if not (is_whole and closing.startswith(opening)):
        raise DataError(
            f"the chat template writes turn {i} otherwise once later turns follow, so its tokens cannot be told apart",
            where=where,
            fix="set data.loss_on: completion or all, or give a template that only appends or has {% generation %}",
        )
    return start, stop


def _first_opening(closing: str, answer: str, say: Any) -> str:
    """What stands before an assistant who speaks first: no template renders nothing, so it is found behind a user."""
    question = [{"role": "user", "content": "?"}]
    texts = [say(question, add_generation_prompt=True), say(question)]
    header = texts[0][len(os.path.commonprefix(texts)) :]
    return closing[: closing.find(header) + len(header)] if header else closing[: closing.find(answer)]


def _inside(offsets: list[Span], spans: list[Span]) -> list[int]:
    """1 for each token of a span; one that also holds the end of the prompt (` Yes` behind `A: `) is the answer's."""
    return [
        int(any((start <= begin or start < end) and begin < stop and end <= stop for start, stop in spans))
        for begin, end in offsets
    ]
