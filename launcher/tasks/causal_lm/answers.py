"""Greedy answers to held-out prompts, to see and to score what training changed."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from launcher import log
from launcher.data import render
from launcher.data.context import Context
from launcher.generation import Generation, Question, batches, generate, in_eval_mode

TEXT_PROMPT_TOKENS = 32


def questions(examples: Iterable[tuple[str, Mapping[str, Any]]], context: Context) -> list[Question]:
    """(where, example) to questions: what is asked for is the last assistant turn, the completion, or how a text goes on."""
    found = ((where, _question(example, context.processor)) for where, example in examples)
    return [question._replace(where=where) for where, question in found if question]


def ask(prompt: str, trained_on: Mapping[str, Any], context: Context) -> Question:
    """A person's prompt in the shape of the training data: a user's turn for conversations, else as it stands."""
    if "messages" in trained_on:
        return Question(prompt, render.prompt_text([{"role": "user", "content": prompt}], context.processor), "")
    return Question(prompt, prompt, "")


def _question(example: Mapping[str, Any], tokenizer: Any) -> Question | None:
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
def answers(model: Any, asked: Sequence[Question], context: Context, how: Generation) -> list[str]:
    """The continuation of each prompt, without special tokens, in the order of the questions.

    Of a prompt that leaves the model no positions to answer in, only the end is asked, and a line says so.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = max(1, positions - how.max_new_tokens) if positions else sys.maxsize
    said: list[str] = []
    with in_eval_mode(model):
        for some in batches(asked, how):
            inputs = _inputs([_ids(question, context.processor, room) for question in some], context.pad_token_id)
            width = inputs["input_ids"].shape[1]
            inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            out = generate(model, inputs, how, context.pad_token_id)
            said += context.processor.batch_decode(out[:, width:], skip_special_tokens=True)
    return [answer.strip() for answer in said]


def _inputs(prompts: list[list[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Padded on the left, so that all answers begin at one place. Of a prompt of nothing, padding is asked."""
    prompts = [prompt or [pad_token_id] for prompt in prompts]
    width = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[pad_token_id] * (width - len(p)) + p for p in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
    }


def _ids(question: Question, tokenizer: Any, room: int) -> list[int]:
    is_chat = question.prompt != question.shown  # a chat template writes its special tokens itself
    ids: list[int] = tokenizer(question.prompt, add_special_tokens=not is_chat, verbose=False)["input_ids"]
    ids = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and not is_chat else ids
    if len(ids) > room:
        log.say(f"note: a prompt of {len(ids):,} tokens is asked by its last {room:,}; the model has no more positions")
    return ids[-room:]
