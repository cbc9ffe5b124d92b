"""Predictions with an export: what plain transformers loads, put to new inputs. Needs neither the data nor the run."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from launcher import parts, processor, proof
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.errors import DataError, EnvironmentProblem, RecipeError, StorageError
from launcher.export import FACTS
from launcher.generation import Generation
from launcher.schema import Data
from launcher.section import freeze

PAIR = "text_pair"
PAIRS_FIX = "give a file with the columns text and text_pair, or name them: --columns text=premise,text_pair=hypothesis"
ROWS_AT_ONCE = 512  # that are read before they are predicted


def facts(recipe: Any, train: Any) -> dict[str, Any]:
    """What a prediction must know of the recipe and its prepared rows, for the export. Dumping is not reading, see
    `Recipe.start_audit`. The loss is none of it: no prediction depends on how the model was taught."""
    traits = parts.load("tasks", recipe.task).TRAITS
    data = recipe.data.model_dump(mode="json", include=set(traits.data_keys))
    model = recipe.model.model_dump(mode="json", include={"trust_remote_code"})
    known = {"task": recipe.task, "data": data, **model}
    if PAIR in parts.load_whole("tasks", recipe.task).rows.COLUMNS.kinds:
        known["pairs"] = all(map(bool, train.all(PAIR)))
    if traits.generated_metrics:
        known["generation"] = recipe.evaluation.model_dump(mode="json", include={"max_new_tokens", "num_beams"})
    return known


class Drawings:
    """A folder that what was found is drawn into, a file of the name of each input."""

    def __init__(self, folder: Path, task: ModuleType):
        if not hasattr(task.metrics, "drawn"):
            raise RecipeError(f"{task.__name__.rpartition('.')[2]} draws no pictures", fix="leave --pictures out")
        self._folder, self._taken = folder, Counter[str]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot be made: {error.strerror}", where=str(folder)) from error

    def save(self, about: str, pictures: Mapping[str, Any]) -> dict[str, str]:
        """Name -> file of each picture: `cat.png` for `picture`, `cat.mask.png` for `mask`, with a number for a second cat."""
        stem = first = re.sub(r"[^\w.-]+", "_", Path(about).stem) or "input"
        while stem in self._taken:
            self._taken[first] += 1
            stem = f"{first}-{self._taken[first]}"
        self._taken[stem] = 1
        files = {name: self._folder / f"{stem}{'' if name == 'picture' else f'.{name}'}.png" for name in pictures}
        try:
            for name, file in files.items():
                pictures[name].save(file)
        except OSError as error:
            raise StorageError(f"a picture could not be written: {error}", where=str(self._folder)) from error
        return {name: str(file) for name, file in files.items()}


@dataclass(frozen=True)
class Predictor:
    """A model with its task, ready to predict."""

    task: ModuleType
    objective: Any
    context: Context
    device: torch.device
    pairs: bool = False  # a text alone is none of what the model has learned
    how: Generation | None = None

    @classmethod
    def of(cls, export: Path, threshold: float | None = None) -> "Predictor":
        """From the folder of an export; an adapter is put beside its base model.

        `threshold`: of a score, from which a box, or one of several labels, is said (None: 0.5); RecipeError for others.
        """
        known = _facts(export)
        task = parts.load_whole("tasks", known["task"])
        used = processor.from_folder(export, task.TRAITS)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = _model(export, task, known, device)
        except (OSError, ValueError, SafetensorError) as error:
            raise EnvironmentProblem(f"the export cannot be loaded: {error}", where=str(export)) from error
        head = {name: getattr(model.config, name, None) for name in ("id2label", "problem_type", "num_labels")}
        labels = (
            Labels.found(())
            if task.TRAITS.label_column is None
            else Labels.listed(list(model.config.id2label.values()))
        )
        data = Data.model_validate(freeze(known["data"]))
        context = Context(used, data, processor.pad_token_id(used), labels, (), head)
        if threshold is not None:
            context = _with_threshold(threshold, task, context)
        objective = task.objective.build(model, task.Config(), context).to(device).eval()
        how = Generation(**known["generation"]) if hasattr(task, "answers") else None
        return cls(task, objective, context, device, known.get("pairs", False), how)

    def predict(
        self, examples: Iterable[tuple[str, Mapping[str, Any]]], batch_size: int, drawings: Drawings | None = None
    ) -> Iterator[dict[str, Any]]:
        """One answer for each (where, example), in order, with what it is about, and with the files of its `drawings`."""
        numbered = iter(examples)
        while some := list(islice(numbered, ROWS_AT_ONCE)):
            if self.how is None:
                yield from self._of(some, batch_size, drawings)
            else:
                yield from self._generated(some, batch_size)

    def _generated(self, examples: list[tuple[str, Mapping[str, Any]]], batch_size: int) -> Iterator[dict[str, Any]]:
        """Of a task that has `answers`: what the model writes."""
        assert self.how is not None
        asked = []
        for where, example in examples:
            found = self.task.answers.questions([(where, example)], self.context)
            if not found:
                raise DataError("there is nothing in it to answer", where=where)
            asked += found
        how = replace(self.how, batch_size=batch_size)
        said = self.task.answers.answers(self.objective.model, asked, self.context, how)
        yield from ({"input": q.shown, "output": answer} for q, answer in zip(asked, said, strict=True))

    def _of(
        self, examples: list[tuple[str, Mapping[str, Any]]], batch_size: int, drawings: Drawings | None
    ) -> Iterator[dict[str, Any]]:
        rows = self.rows(examples)
        predictions: dict[int, Any] = {}
        by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index].get("input_ids", ())))
        for start in range(0, len(rows), batch_size):
            indices = by_length[start : start + batch_size]
            predictions.update(zip(indices, self.predictions(rows, indices), strict=True))
        in_order = [predictions[index] for index in range(len(rows))]
        answers = self.task.metrics.said(in_order, rows, self.context)
        if drawings is None:
            yield from answers
            return
        for answer, prediction, row in zip(answers, in_order, rows, strict=True):
            made = self.task.metrics.drawn(prediction, row, self.context)
            yield {**answer, **drawings.save(str(answer["input"]), made)}

    def rows(self, examples: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """The task's rows of (where, example), without answers."""
        tools = Tools(self.context.processor, self.context.data, "truncate", {}, labelled=False)
        made = []
        for where, example in examples:
            if self.pairs and not example.get(PAIR):
                raise DataError("the model has learned from pairs, and this is one text", where=where, fix=PAIRS_FIX)
            made += self.task.rows.rows(where, example, tools)
        return made

    @torch.no_grad()
    def predictions(self, rows: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[Any]:
        """What the task's objective says of some prepared rows, in one batch."""

        def read(index: int, names: Iterable[str] | None = None) -> dict[str, Any]:
            return {name: rows[index][name] for name in names or rows[index]}

        batch = self.task.rows.collate([[index] for index in indices], read, self.context)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        predictions: list[Any] = self.objective.predictions(self.objective(**batch).outputs, batch)
        return predictions


def _facts(export: Path) -> dict[str, Any]:
    if not export.is_dir():
        raise EnvironmentProblem("there is no such folder", where=str(export), fix="`launcher runs` lists runs")
    try:
        known: dict[str, Any] = json.loads((export / FACTS).read_text(encoding="utf-8"))
        parts.load("tasks", known["task"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentProblem(
            f"no {FACTS} that can be read, so this is not an export of the launcher ({error})",
            where=str(export),
            fix="name a run folder with export/, or an export; `launcher export RUN` writes one",
        ) from None
    return known


def _with_threshold(threshold: float, task: ModuleType, context: Context) -> Context:
    if not getattr(task.metrics, "has_threshold", lambda _: False)(context):
        raise RecipeError("this model says no scores of which several could count", fix="leave --threshold out")
    return replace(context, threshold=threshold)


def _model(export: Path, task: ModuleType, known: dict[str, Any], device: torch.device) -> Any:
    """As plain transformers loads it; an adapter beside its base, which is quantised as it was for training."""
    auto_class, trust = getattr(transformers, task.TRAITS.auto_class), {"trust_remote_code": known["trust_remote_code"]}
    if not (export / "adapter_config.json").exists():
        return auto_class.from_pretrained(export, **trust)
    import peft

    transformers.utils.logging.set_verbosity(
        logging.ERROR
    )  # the base has no head of this kind, and the adapter brings it
    base = json.loads((export / "adapter_config.json").read_text())["base_model_name_or_path"]
    expected = {**known, "device": str(device)}
    options = {**proof.head_options(export, expected), **proof.quantized_options(base, expected)}
    model = auto_class.from_pretrained(base, **trust, **options)
    proof.compute_as_trained(model, expected)
    return peft.PeftModel.from_pretrained(model, export)
