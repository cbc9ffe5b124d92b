"""Models that write: the next token, or a text that is given, from a prompt or a source."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from launcher.errors import DataError
from launcher.explain import Asked
from launcher.explain import pieces as tokens
from launcher.generation import Question

CHAT = "asked as a user's turn, since the tokenizer has a chat template"


def question(predictor: Any, where: str, example: Mapping[str, Any], is_text: bool) -> tuple[Question, tuple[str, ...]]:
    """What is asked, with notes. A text by itself is a user's turn where the tokenizer has a chat template."""
    answers, context = predictor.task.answers, predictor.context
    if not is_text:
        found = answers.questions([(where, example)], context)
        if not found:
            raise DataError("there is nothing in it to answer", where=where)
        return found[0], ()
    (text,) = example.values()
    chat = (
        bool(getattr(context.processor, "chat_template", None))
        and predictor.task.TRAITS.auto_class == "AutoModelForCausalLM"
    )
    return answers.ask(text, {"messages": ()} if chat else {}, context), (CHAT,) if chat else ()


def continuation(predictor: Any, asked: Question, target: str | None, notes: tuple[str, ...] = ()) -> Asked:
    """The logarithm of the probability of a decoder's next token, or of a text. Its own tokens stay as they are."""
    tokenizer, device = predictor.context.processor, predictor.device
    is_chat = asked.prompt != asked.shown  # a chat template writes its special tokens itself
    prompt, pieces = tokens.encoded(tokenizer, asked.prompt, add_special_tokens=not is_chat)
    if not is_chat and prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt, pieces = prompt[:-1], pieces[:-1]
    if not prompt:
        raise DataError("no token is left of the prompt", where=asked.where)
    given = _ids(tokenizer, target) if target is not None else []
    inputs = {"input_ids": _row([*prompt, *given[:-1]], device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    model, first = predictor.objective.model, len(prompt) - 1
    likeliest = _likeliest(model(**inputs).logits[0, first])
    own = tokens.of_ids(given[:-1], tokenizer)
    fixed = tuple(replace(piece, special=True) for piece in own)
    return _asked(predictor, asked, inputs, given or [likeliest], likeliest, first, (*pieces, *fixed), target, notes)


def target(predictor: Any, asked: Question, wanted_text: str | None, notes: tuple[str, ...] = ()) -> Asked:
    """The same of an encoder with a decoder, which reads the source and begins to write."""
    tokenizer, device, model = predictor.context.processor, predictor.device, predictor.objective.model
    limit = predictor.context.data.max_length
    source, pieces = tokens.encoded(tokenizer, asked.prompt, truncation=True, max_length=limit)
    begin, given = _begin(model), _ids(tokenizer, wanted_text, as_target=True) if wanted_text is not None else []
    inputs = {"input_ids": _row(source, device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["decoder_input_ids"] = _row([*begin, *given[:-1]], device)
    first = len(begin) - 1
    likeliest = _likeliest(model(**inputs).logits[0, first])
    return _asked(predictor, asked, inputs, given or [likeliest], likeliest, first, pieces, wanted_text, notes)


def _asked(
    predictor: Any,
    asked: Question,
    inputs: dict[str, Tensor],
    wanted: Sequence[int],
    likeliest: int,
    first: int,
    pieces: Sequence[Any],
    target: str | None,
    notes: tuple[str, ...],
) -> Asked:
    tokenizer, model, number = predictor.context.processor, predictor.objective.model, len(wanted)

    def score(said: Any) -> Tensor:
        logs = said.logits[:, first : first + number].float().log_softmax(-1)
        return torch.stack([logs[:, place, token] for place, token in enumerate(wanted)], 1).sum(1)

    with torch.no_grad():
        chance = float(score(model(**inputs))[0].exp())
    label = tokenizer.decode(list(wanted)) if target is None else target
    what = f"the next token {label!r}" if target is None else f"the {number} tokens of {label!r}"
    return Asked(
        shown=asked.shown,
        inputs=inputs,
        score=score,
        what=f"the logarithm of the probability of {what}",
        label=label,
        predicted=tokenizer.decode([likeliest]),
        probability=chance,
        texts=(asked.prompt,) if tokenizer.is_fast else (),
        pieces=tuple(pieces),
        notes=notes,
    )


def _ids(tokenizer: Any, text: str, as_target: bool = False) -> list[int]:
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    found = tokenizer(text_target=text, **options) if as_target else tokenizer(text, **options)
    ids: list[int] = list(found["input_ids"])
    if not ids:
        raise DataError(f"no token is left of {text!r}", where="--target")
    return ids


def _begin(model: Any) -> list[int]:
    """What a decoder begins with; BART writes its first token whatever it has read."""
    config = model.generation_config
    start = config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    return [start] if config.forced_bos_token_id is None else [start, config.forced_bos_token_id]


def _likeliest(logits: Tensor) -> int:
    return int(logits.argmax())


def _row(ids: Sequence[int], device: Any) -> Tensor:
    return torch.tensor([list(map(int, ids))], device=device)
