"""Examples to token ids, and which of them are trained on.

Works with any fast Hugging Face tokenizer; imports none. A conversation is rendered once as text by the chat template, its
trained spans are found in that text, and the spans are carried over to tokens by the tokenizer's offsets, so that no token is
ever made from a fragment that the model would not see at inference.
"""

from typing import Any, NamedTuple

from launcher.errors import DataError


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


def chat(messages: list[dict[str, Any]], tokenizer: Any, loss_on: str, where: str, completion_turns: int = 1) -> Tokens:
    """`loss_on`: `assistant` trains on every assistant turn, `completion` on the last turns only, `all` on everything."""
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template", where=where, fix="give one under tokenizer.chat_template")
    full = _template(messages, tokenizer, where)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = encoded["input_ids"]
    if loss_on == "all":
        return Tokens(ids, [1] * len(ids))
    first = 0 if loss_on == "assistant" else len(messages) - completion_turns
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i >= first]
    if not turns:
        raise DataError("no assistant turn to train on", where=where, fix="drop the row or set data.loss_on: all")
    spans = [_turn_span(messages, i, full, tokenizer, where) for i in turns]
    return Tokens(ids, _inside(encoded["offset_mapping"], spans))


def prompt_text(messages: list[dict[str, Any]], tokenizer: Any) -> str:
    """What the model sees before it answers: the conversation and the opening of the assistant's turn."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _template(messages: list[dict[str, Any]], tokenizer: Any, where: str, **options: Any) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        raise DataError(f"the chat template refuses this conversation: {error}", where=where) from None


def _turn_span(messages: list[dict[str, Any]], i: int, full: str, tokenizer: Any, where: str) -> tuple[int, int]:
    """Characters of turn i's answer and its terminator: what the template adds after the opening of the turn."""
    start = len(opening := _template(messages[:i], tokenizer, where, add_generation_prompt=True)) if i else 0
    closing = _template(messages[: i + 1], tokenizer, where)
    if not (full.startswith(closing) and (not i or closing.startswith(opening))):
        raise DataError(
            f"the chat template writes turn {i} otherwise once later turns follow, so its tokens cannot be told apart",
            where=where,
            fix="set data.loss_on: completion or all, or give a template that only appends",
        )
    return start, len(closing)


def _inside(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[int]:
    return [int(any(start <= begin and end <= stop and begin < end for start, stop in spans)) for begin, end in offsets]
