"""From one input to its explanation: asks the task what is explained, integrates, and sums by word, cell or second."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from launcher.errors import RecipeError
from launcher.explain import GENERATED, TASKS, TEXTS, Asked, generated, gradients, media, pieces, texts
from launcher.explain.gradients import Attributed
from launcher.suggest import did_you_mean

TEXT_BASELINES = ("mask", "pad", "zero")
AS_STORED = "as stored"
INSTEAD = {"object_detection": "its boxes", "semantic_segmentation": "its pixels"}


@dataclass(frozen=True)
class Settings:
    """Of the command line. `at_once`: points of the line from the baseline to the input that go through the model together;
    `computed`: what `in_full_precision` says."""

    target: str | None = None
    word: str | None = None
    baseline: str | None = None
    steps: int = 50
    at_once: int = 8
    computed: str = ""


@dataclass(frozen=True)
class Explanation:
    """`record`: what explanation.json says. `seen`, `overlay`: pictures, of a picture."""

    record: dict[str, Any]
    texts: tuple[str, ...] = ()
    seen: Any = None
    overlay: Any = None
    warnings: tuple[str, ...] = field(default=())


def name_of(predictor: Any) -> str:
    return str(predictor.task.__name__.rpartition(".")[2])


def insist_on_task(predictor: Any, settings: Settings) -> None:
    """RecipeError for what is not explained, and for options that another task has."""
    task = name_of(predictor)
    if task not in TASKS:
        why = f": no one number says what {INSTEAD[task]} rest on" if task in INSTEAD else ""
        raise RecipeError(f"launcher explain does not explain {task}{why}", fix=f"it explains {', '.join(TASKS)}")
    if settings.word is not None and task != "token_classification":
        raise RecipeError(f"--word is for token_classification, and this is {task}", fix="leave it out")
    known = {"image_classification": media.PICTURE_BASELINES, "audio_classification": ("silence",)}.get(
        task, TEXT_BASELINES
    )
    if settings.baseline not in (None, *known):
        hint = did_you_mean(str(settings.baseline), known)
        raise RecipeError(f"--baseline {settings.baseline} is none for {task}{hint}", fix=f"use {', '.join(known)}")


def in_full_precision(predictor: Any) -> str:
    """Makes the model compute in fp32, unless its weights are quantised; says how it computes."""
    model = predictor.objective.model
    predictor.objective.requires_grad_(False)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(base, "is_quantized", False):
        return f"{AS_STORED}: quantised weights, products in {str(base.dtype).removeprefix('torch.')}"
    stored = str(base.dtype).removeprefix("torch.")
    predictor.objective.float()
    return "in float32" if stored == "float32" else f"in float32 (the export is in {stored})"


def explain(predictor: Any, where: str, example: Mapping[str, Any], is_text: bool, settings: Settings) -> Explanation:
    """Of one (where, example) as `launcher predict` reads it; `is_text`: a text of the command line, for tasks that write."""
    task = name_of(predictor)
    if task in TEXTS or task in GENERATED:
        return _text(predictor, _asked_of_text(predictor, task, where, example, is_text, settings), settings)
    rows = predictor.rows([(where, example)])
    if task == "image_classification":
        return _picture(predictor, media.picture(predictor, rows, settings.target), settings)
    return _sound(predictor, media.sound(predictor, rows, settings.target), rows, settings)


def _asked_of_text(
    predictor: Any, task: str, where: str, example: Mapping[str, Any], is_text: bool, settings: Settings
) -> Asked:
    if task in GENERATED:
        asked, notes = generated.question(predictor, where, example, is_text)
        how = generated.continuation if task == "causal_lm" else generated.target
        return how(predictor, asked, settings.target, notes)
    rows = predictor.rows([(where, example)])
    if task == "token_classification":
        return texts.tags(predictor, rows, settings.target, settings.word)
    makers = {
        "text_classification": texts.classification,
        "text_regression": texts.regression,
        "question_answering": texts.answer,
    }
    return makers[task](predictor, rows, settings.target)


def _text(predictor: Any, asked: Asked, settings: Settings) -> Explanation:
    number, said = baseline_id(predictor.context.processor, settings.baseline)
    ids = asked.inputs["input_ids"]
    fixed = torch.tensor([piece.special for piece in asked.pieces], device=ids.device)[None]
    baseline = torch.where(fixed, ids, torch.full_like(ids, number))
    how = settings.steps, settings.at_once
    found = gradients.of_embeddings(predictor.objective.model, asked.inputs, asked.score, baseline, *how)
    values = found.values[0].double().sum(-1).tolist()
    each = [
        {"token": piece.token, "part": piece.part, "start": piece.start, "end": piece.end, "special": piece.special,
         "attribution": 0.0 if piece.special else value}
        for piece, value in zip(asked.pieces, values, strict=True)
    ]  # fmt: skip
    record = {**_record(predictor, asked, found, settings, f"{said} in place of every token that is not special")}
    record |= {"tokens": each, "words": pieces.words(asked.pieces, values, asked.texts)}
    jumps = gradients.is_near_zero(predictor.objective.model, number, ids)
    hint = "; or name another --baseline, since a model that norms its embeddings jumps near zeros" if jumps else ""
    return Explanation(record, asked.texts, warnings=_warnings(found, settings, record, hint))


def baseline_id(tokenizer: Any, name: str | None) -> tuple[int, str]:
    """The token that stands for nothing, -1 for an embedding of zeros; and in words. The mask, which the model knows as a word
    that is not known, else padding."""
    if name == "zero":
        return -1, "an embedding of zeros"
    for kind in ("mask", "pad") if name is None else (name,):
        number = getattr(tokenizer, f"{kind}_token_id", None)
        if number is not None:
            return int(number), f"the {kind} token {tokenizer.convert_ids_to_tokens(int(number))}"
    if name is None:
        return -1, "an embedding of zeros (the tokenizer has neither mask nor pad token)"
    raise RecipeError(f"--baseline {name}: the tokenizer has no {name} token", fix="use zero")


def _picture(predictor: Any, asked: Asked, settings: Settings) -> Explanation:
    baseline, said = media.picture_baseline(asked, settings.baseline or "black", predictor.context.processor)
    how = settings.steps, settings.at_once
    model = predictor.objective.model
    found = gradients.of_input(model, asked.inputs, "pixel_values", asked.score, baseline, *how)
    record = {**_record(predictor, asked, found, settings, said), "cells": media.cells(found.values)}
    seen = media.as_seen(asked.inputs["pixel_values"], predictor.context.processor)
    return Explanation(record, (), seen, media.overlay(found.values, seen), _warnings(found, settings, record))


def _sound(predictor: Any, asked: Asked, rows: Any, settings: Settings) -> Explanation:
    inputs = {name: tensor for name, tensor in asked.inputs.items() if name != "lengths"}
    name = media.sound_input(predictor)
    baseline = media.silence(predictor, rows, inputs[name])
    how = settings.steps, settings.at_once
    found = gradients.of_input(predictor.objective.model, inputs, name, asked.score, baseline, *how)
    seconds = media.by_second(found.values, predictor.context.processor, asked.extra["seconds"])
    record = {**_record(predictor, asked, found, settings, "silence"), "seconds": seconds}
    return Explanation(record, (), warnings=_warnings(found, settings, record))


def _record(predictor: Any, asked: Asked, found: Attributed, settings: Settings, baseline: str) -> dict[str, Any]:
    return {
        "task": name_of(predictor),
        "input": asked.shown,
        "explained": asked.what,
        "label": asked.label,
        "predicted": asked.predicted,
        "probability": asked.probability,
        **asked.extra,
        "baseline": baseline,
        "steps": settings.steps,
        "computed": settings.computed,
        "output": found.output,
        "baseline_output": found.baseline_output,
        "difference": found.difference,
        "sum_of_attributions": found.difference + found.delta,
        "convergence_delta": found.delta,
        "notes": list(asked.notes),
    }


def _warnings(found: Attributed, settings: Settings, record: Mapping[str, Any], hint: str = "") -> tuple[str, ...]:
    if not found.is_far_off:
        return ()
    off = f"the attributions add up to {record['sum_of_attributions']:.4g}, and should to {found.difference:.4g}"
    rounds = "; what is quantised may round as much" if settings.computed.startswith(AS_STORED) else ""
    return (f"warning: {off}; do not trust them, raise --steps (for example to {4 * settings.steps}){hint}{rounds}",)
