"""Tags and answers through the whole launcher: predictions of plain transformers, and what the evaluation shows."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_encoder
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

from launcher.predict import Predictor

TRAINING = """\
training: {global_batch_size: 6, per_device_train_batch_size: 1, max_steps: 8}
evaluation: {eval_steps: 4}
checkpoint: {save_steps: 4}
logging: {logging_steps: 1, trackers: [jsonl]}
"""
MAKERS = {
    "token_classification": tiny_encoder.token_classification,
    "question_answering": tiny_encoder.question_answering,
}
LONGEST = 30  # tokens of an answer, the launcher's default


@pytest.fixture(scope="module", params=MAKERS)
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / f"{request.param}.yaml"
    path.write_text(f"task: {request.param}\n{MAKERS[request.param](folder)}{TRAINING}")
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """The folder of a finished run, exported without the proof of a fresh process."""
    folder = recipe.parent / "run"
    assert tiny.train(recipe, f"output_dir={folder}", "export.verify=false") == 0
    return folder


def test_plain_transformers_gives_the_predictions_of_the_launcher(recipe: Path, run: Path) -> None:
    lines = map(json.loads, (recipe.parent / "eval.jsonl").read_text().splitlines())
    kept = ("tokens",) if recipe.stem == "token_classification" else ("question", "context")
    examples = [{name: line[name] for name in kept} for line in lines]
    said = list(Predictor.of(run / "export").predict((("", example) for example in examples), 3))
    assert len(said) == len(examples)
    CHECKS[recipe.stem](run / "export", examples, said)


def test_an_export_that_always_answers_does(recipe: Path, run: Path, tmp_path: Path) -> None:
    """Without a threshold, which is not the default."""
    if recipe.stem != "question_answering":
        pytest.skip("only answers may be none")
    export = shutil.copytree(run / "export", tmp_path / "export")
    facts = json.loads((export / "launcher.json").read_text())
    facts["data"]["null_score_diff_threshold"] = None
    (export / "launcher.json").write_text(json.dumps(facts))
    lines = map(json.loads, (recipe.parent / "eval.jsonl").read_text().splitlines())
    examples = [{name: line[name] for name in ("question", "context")} for line in lines]
    said = list(Predictor.of(export).predict((("", example) for example in examples), 3))
    same_answers(export, examples, said, threshold=math.inf)
    assert all(one["answer"] for one in said)


def same_tags(export: Path, examples: list[dict[str, Any]], said: list[dict[str, Any]]) -> None:
    """transformers' pipeline on the running text, of sentences that it takes whole."""
    tagger, compared = pipeline("token-classification", model=str(export)), 0
    for example, one in zip(examples, said, strict=True):
        assert len(one["tags"]) == len(example["tokens"])
        text = " ".join(example["tokens"])
        places = [len("".join(f"{token} " for token in example["tokens"][:n])) for n in range(len(example["tokens"]))]
        found = {piece["start"]: piece["entity"] for piece in tagger(text, ignore_labels=[])}
        if "\u200d" in example["tokens"] or len(tagger.tokenizer(text)["input_ids"]) > 24:
            continue
        assert [found[place] for place in places] == one["tags"]
        compared += len(places)
    assert compared > 5


def same_answers(
    export: Path, examples: list[dict[str, Any]], said: list[dict[str, Any]], threshold: float = 0.0
) -> None:
    """Windows and pairs anew, one by one, without the launcher."""
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(export), AutoTokenizer.from_pretrained(export)
    for example, one in zip(examples, said, strict=True):
        question, context = (
            tokenizer(example[name], add_special_tokens=False, return_offsets_mapping=True)
            for name in ("question", "context")
        )
        room, total = 24 - 3 - len(question["input_ids"]), len(context["input_ids"])
        best, nulls, first = (-1e9, 0, 0), [], 0
        while True:
            part = context["input_ids"][first : first + room]
            ids = [2, *question["input_ids"], 3, *part, 3]
            kinds = [0] * (len(question["input_ids"]) + 2) + [1] * (len(part) + 1)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([kinds]))
            start, end = logits.start_logits[0].tolist(), logits.end_logits[0].tolist()
            nulls.append(start[0] + end[0])
            shift = len(question["input_ids"]) + 2
            for i in range(len(part)):
                for j in range(i, min(len(part), i + LONGEST)):
                    score = start[shift + i] + end[shift + j]
                    places = context["offset_mapping"][first + i][0], context["offset_mapping"][first + j][1]
                    best = max(best, (score, *places), key=lambda pair: pair[0])
            if first + room >= total:
                break
            first += room - 5
        assert abs(min(nulls) - best[0]) > 1e-4, "too close to tell"
        answer = "" if min(nulls) - best[0] > threshold else example["context"][best[1] : best[2]]
        assert one["answer"] == answer


CHECKS = {"token_classification": same_tags, "question_answering": same_answers}


def test_the_evaluation_shows_what_was_wrong(recipe: Path, run: Path) -> None:
    facts = json.loads((run / "evaluation.json").read_text())
    assert facts["task"] == recipe.stem and facts["step"] == 8
    assert facts["table"]["rows"] and facts["errors"]
    for error in facts["errors"]:
        number = int(error["where"].rpartition(":")[2])
        line = json.loads((recipe.parent / "eval.jsonl").read_text().splitlines()[number - 1])
        assert error["input"] == line.get("question", " ".join(line.get("tokens", [])))
        assert error["reference"] != error["predicted"]
