"""What the model makes of a source, to see and to score."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from launcher import log
from launcher.data.context import Context
from launcher.generation import Generation, Question, batches, generate, in_eval_mode
from launcher.tasks.seq2seq_lm.rows import sources, tokenised


def questions(examples: Iterable[tuple[str, Mapping[str, Any]]], context: Context) -> list[Question]:
    """(where, example) to questions: the source is asked for its target; nothing where the source is empty."""
    prefix, found = context.data.source_prefix, [pair for pair in examples if pair[1]["source"].strip()]
    return [Question(e["source"], prefix + e["source"], e.get("target", ""), where) for where, e in found]


def ask(prompt: str, trained_on: Mapping[str, Any], context: Context) -> Question:
    return Question(prompt, context.data.source_prefix + prompt, "")


@torch.no_grad()
def answers(model: Any, asked: Sequence[Question], context: Context, how: Generation) -> list[str]:
    """The target of each source, without special tokens, in the order of the questions."""
    how = _within_positions(model, how)
    said: list[str] = []
    with in_eval_mode(model):
        for some in batches(asked, how):
            ids = [_ids(question, context) for question in some]
            inputs = {name: tensor.to(model.device) for name, tensor in sources(ids, context.pad_token_id).items()}
            out = generate(model, inputs, how, context.pad_token_id)
            said += context.processor.batch_decode(out, skip_special_tokens=True)
    return [answer.strip() for answer in said]


def _ids(question: Question, context: Context) -> list[int]:
    limit = context.data.max_length
    ids, length = tokenised(context.processor, {"text": question.prompt}, limit)
    if length > limit:
        log.say(f"note: of a source of {length:,} tokens the first {limit:,} are asked, see data.max_length")
    return ids or [context.pad_token_id]


def _within_positions(model: Any, how: Generation) -> Generation:
    """One position is the token that the decoder begins with."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if positions is None or how.max_new_tokens < positions:
        return how
    log.say(f"note: answers end after {positions - 1:,} tokens; the model has no more positions")
    return replace(how, max_new_tokens=positions - 1)
