"""The same Objective without gradients, and questions put to the model. Each row is counted once over all ranks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from launcher.data import sources
from launcher.data.clean.pipeline import Cleaning
from launcher.data.context import Context, Tools
from launcher.data.order import sequential
from launcher.engine import Engine
from launcher.errors import DataError, RecipeError
from launcher.generation import Generation, Question
from launcher.metrics import Measured
from launcher.recipe import Recipe

NUM_SAMPLES = 3


@dataclass
class Verdict:
    """What is known of one state of the weights. `details`: of the evaluation, for people; on rank zero alone."""

    metrics: dict[str, float] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exam:
    """Questions that are put to a model that generates; `scored`: the metrics of the recipe that need the answers."""

    task: Any
    context: Context
    questions: list[Question]
    how: Generation
    scored: tuple[str, ...] = ()
    tokenize: str = ""

    @classmethod
    def of(cls, recipe: Recipe, task: Any, context: Context) -> "Exam":
        """As many questions as generated metrics need, or just the samples of the report; none where nothing is generated."""
        section = recipe.evaluation
        if not hasattr(task, "answers"):
            return cls(task, context, [], Generation(0))
        asked = section.metrics or task.TRAITS.default_metrics
        scored = tuple(name for name in asked if name in task.TRAITS.generated_metrics)
        number = section.generate_rows if scored else NUM_SAMPLES
        questions = task.answers.questions(islice(_examples(recipe, task, context), number), context)
        how = Generation(section.max_new_tokens, section.num_beams)
        return cls(task, context, questions, how, scored, section.bleu_tokenize)

    def sit(self, engine: Engine) -> list[str]:
        """Answers to all questions, in their order, on every rank; each rank generates its share."""
        if not self.questions:
            return []
        mine = dealt(self.questions, engine)
        with engine.generating() as model:
            how = replace(self.how, in_step=engine.in_step)
            said = self.task.answers.answers(model, mine, self.context, how)
        shares = engine.gather(said)
        return [shares[i % engine.world_size][i // engine.world_size] for i in range(len(self.questions))]

    def scores(self, answers: list[str]) -> Measured:
        """What the answers are worth beside the references, as `eval/<metric>`; nothing where no metric asks."""
        if not self.scored:
            return Measured({}, {})
        found = self.task.metrics.scored_answers(answers, self.questions, self.scored, self.tokenize)
        return Measured({f"eval/{name}": value for name, value in found.values.items()}, found.details)

    def samples(self) -> list[int]:
        """Spread over the questions, the same before and after."""
        return [i * len(self.questions) // NUM_SAMPLES for i in range(min(NUM_SAMPLES, len(self.questions)))]


def _examples(recipe: Recipe, task: Any, context: Context) -> Iterator[tuple[str, Any]]:
    """(where, example) to make questions of: those that are kept as rows. The others were named when the rows were prepared."""
    left_out: list[DataError] = []
    spoiled = left_out.append if recipe.data.on_error == "skip" else None
    on_truncate = recipe.data.on_truncate or task.TRAITS.on_truncate
    tools = Tools(context.processor, recipe.data, on_truncate, {}, context.labels)
    which, formats = "eval" if recipe.data.eval else "train", task.TRAITS.formats
    cleaning = Cleaning(recipe.data, which, formats) if recipe.data.clean else None
    for number, source in enumerate(getattr(recipe.data, which)):
        given = cleaning.report(number).kept if cleaning else sources.examples(source, formats, spoiled)
        for where, example in given:
            try:
                kept = any(task.rows.rows(where, example, tools))
            except DataError as error:
                if spoiled is None:
                    raise
                spoiled(error)
            else:
                if kept:
                    yield where, example


def insist_on_asked(recipe: Recipe, measured: Iterable[str]) -> None:
    """Refuse a metric that the recipe names and this data does not have: one for several labels a row, for example."""
    section, there = recipe.evaluation, [f"eval/{name}" for name in measured]
    asked = dict.fromkeys((section.metric_for_best_model, *(f"eval/{name}" for name in section.metrics or ())))
    if missing := [name for name in asked if name and name not in there]:
        raise RecipeError(
            f"evaluation.metrics: {', '.join(missing)} cannot be measured on this data",
            where=recipe.origin("evaluation.metrics"),
            fix=f"there are {', '.join(there)}",
        )


def dealt(things: list[Any], engine: Engine) -> list[Any]:
    """This rank's share; where ranks must stay in step, with a repeated one at the end if others have more."""
    mine = things[engine.rank :: engine.world_size]
    longest = -(-len(things) // engine.world_size)
    return mine + things[: longest - len(mine)] if engine.in_step else mine


def evaluate(
    engine: Engine, task: Any, rows: Any, context: Context, collate: Callable[[list[list[int]]], Any], batch_size: int
) -> Measured:
    """The metrics of the task over all rows, each counted once, on every rank; the details on rank zero alone."""
    batches = sequential(rows.lengths, batch_size)
    my_number = len(batches[engine.rank :: engine.world_size])
    objective: Any = engine.objective
    was_training = objective.training
    objective.eval()
    totals: dict[str, float] = defaultdict(float)
    predicted: dict[int, Any] = {}  # by row
    for number, batch in enumerate(dealt(batches, engine)):
        tensors = collate([[index] for index in batch])
        loss = engine.evaluate(tensors)
        if number >= my_number:
            continue
        for name, (value, count, *_) in {**loss.terms, **loss.metrics}.items():
            totals[f"{name} sum"] += float(value)
            totals[f"{name} count"] += float(count)
        if loss.outputs is not None:
            predicted.update(zip(batch, objective.predictions(loss.outputs, tensors), strict=True))
    objective.train(was_training)
    return _measured(engine, task, _reduced(engine, totals), predicted, rows, context)


def _measured(
    engine: Engine,
    task: Any,
    totals: dict[str, tuple[float, float]],
    predicted: dict[int, Any],
    rows: Any,
    context: Context,
) -> Measured:
    """Predictions meet on rank zero, in the order of rows, so that the result does not depend on who made them."""
    shares = engine.collect(predicted)
    measured = None
    if shares is not None:
        together = {index: prediction for share in shares for index, prediction in share.items()}
        measured = task.metrics.summarize(totals, [together[index] for index in sorted(together)], rows, context)
    values = engine.broadcast(measured and measured.values)
    return Measured({f"eval/{name}": value for name, value in values.items()}, measured.details if measured else {})


def _reduced(engine: Engine, totals: dict[str, float]) -> dict[str, tuple[float, float]]:
    """A rank without a single batch knows no names, so the names are agreed on first."""
    names = sorted(set().union(*engine.gather(sorted(totals))))
    summed = engine.sum({name: totals.get(name, 0.0) for name in names})
    terms = {name.rsplit(" ", 1)[0] for name in names}
    return {term: (summed[f"{term} sum"], summed[f"{term} count"]) for term in terms}
