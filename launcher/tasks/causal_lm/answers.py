"""Greedy answers to held-out prompts, to see and to score what training changed."""

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from launcher import log
from launcher.data import render

TEXT_PROMPT_TOKENS = 32


class Question(NamedTuple):
    """`shown` is the prompt as a person reads it, `prompt` as the model does, `reference` the answer of the data."""

    shown: str
    prompt: str
    reference: str


def questions(examples: Iterable[dict[str, Any]], tokenizer: Any) -> list[Question]:
    """Examples to questions: what is asked for is the last assistant turn, the completion, or how a text goes on."""
    return [question for example in examples if (question := _question(example, tokenizer))]


def ask(prompt: str, trained_on: dict[str, Any], tokenizer: Any) -> Question:
    """A person's prompt in the shape of the training data: a user's turn for conversations, else as it stands."""
    if "messages" in trained_on:
        return Question(prompt, render.prompt_text([{"role": "user", "content": prompt}], tokenizer), "")
    return Question(prompt, prompt, "")


def _question(example: dict[str, Any], tokenizer: Any) -> Question | None:
    if "messages" in example:
        turns = example["messages"]
        last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
        if not last:
            return None
        prompt = render.prompt_text(turns[:last], tokenizer, example.get("tools"))
        return Question(turns[last - 1].get("content", ""), prompt, turns[last].get("content", ""))
    if "completion" in example:
        return Question(example["prompt"], example["prompt"], example["completion"])
    return _continuation(example["text"][: 64 * TEXT_PROMPT_TOKENS], tokenizer)


def _continuation(text: str, tokenizer: Any) -> Question:
    """The first quarter of a text's beginning is the prompt; measured in tokens, since not every script has spaces."""
    begins = [begin for begin, _ in tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]]
    stops = [*begins[TEXT_PROMPT_TOKENS::TEXT_PROMPT_TOKENS], len(text)]
    return Question(text[: stops[0]], text[: stops[0]], text[stops[0] : stops[min(3, len(stops) - 1)]])


@torch.no_grad()
def answers(
    model: Any,
    tokenizer: Any,
    asked: list[Question],
    max_new_tokens: int,
    pad_token_id: int,
    batch_size: int = 16,
    in_step: bool = False,
) -> list[str]:
    """The greedy continuation of each prompt, without special tokens, in the order of the questions.

    `in_step`: all ranks generate until the last of them has ended, because every step gathers weights.

    Of a prompt that leaves the model no positions to answer in, only the end is asked, and a line says so.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = max(1, positions - max_new_tokens) if positions else sys.maxsize
    was_training = model.training
    model.eval()
    try:
        said: list[str] = []
        for start in range(0, len(asked), batch_size):
            prompts = [
                _ids(question, tokenizer, room) or [pad_token_id] for question in asked[start : start + batch_size]
            ]
            width = max(map(len, prompts))
            ids = torch.tensor([[pad_token_id] * (width - len(p)) + p for p in prompts], device=model.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad_token_id,
                synced_gpus=in_step,
            )
            said += tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        return [answer.strip() for answer in said]
    finally:
        model.train(was_training)


def _ids(question: Question, tokenizer: Any, room: int) -> list[int]:
    is_chat = question.prompt != question.shown  # a chat template writes its special tokens itself
    ids: list[int] = tokenizer(question.prompt, add_special_tokens=not is_chat, verbose=False)["input_ids"]
    ids = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and not is_chat else ids
    if len(ids) > room:
        log.say(f"note: a prompt of {len(ids):,} tokens is asked by its last {room:,}; the model has no more positions")
    return ids[-room:]
