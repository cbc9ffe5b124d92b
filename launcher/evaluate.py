"""The same Objective without gradients, and questions put to the model. Each row is counted once over all ranks."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from launcher.data import sources
from launcher.data.order import sequential
from launcher.engine import Engine
from launcher.model import pad_token_id
from launcher.recipe import Recipe

NUM_SAMPLES = 3


@dataclass
class Verdict:
    """What is known of one state of the weights."""

    metrics: dict[str, float] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Exam:
    """Questions that are put to the model; `scored` if a metric of the recipe needs the answers."""

    task: Any
    tokenizer: Any
    questions: list[Any]
    max_new_tokens: int
    scored: bool

    @classmethod
    def of(cls, recipe: Recipe, task: Any, tokenizer: Any) -> "Exam":
        """As many questions as generated metrics need, or just the samples of the report."""
        section = recipe.evaluation
        scored = bool(set(section.metrics) & set(task.GENERATED_METRICS))
        number = section.generate_rows if scored else NUM_SAMPLES
        listed = recipe.data.eval or recipe.data.train
        examples = (example for source in listed for _, example in sources.examples(source, task.FORMATS))
        questions = task.answers.questions(islice(examples, number), tokenizer)
        return cls(task, tokenizer, questions, section.max_new_tokens, scored)

    def sit(self, engine: Engine) -> list[str]:
        """Answers to all questions, in their order, on every rank; each rank generates its share."""
        mine = dealt(self.questions, engine)
        with engine.generating() as model:
            pad = pad_token_id(self.tokenizer)
            said = self.task.answers.answers(
                model, self.tokenizer, mine, self.max_new_tokens, pad, in_step=engine.in_step
            )
        shares = engine.gather(said)
        return [shares[i % engine.world_size][i // engine.world_size] for i in range(len(self.questions))]

    def scores(self, answers: list[str]) -> dict[str, float]:
        """Mean score of the answers against the references, as `eval/<metric>`."""
        scores = [self.task.metrics.score(a, q.reference) for a, q in zip(answers, self.questions, strict=True)]
        return {f"eval/{name}": sum(scores) / len(scores) for name in self.task.GENERATED_METRICS if scores}

    def samples(self) -> list[int]:
        """Spread over the questions, the same before and after."""
        return [i * len(self.questions) // NUM_SAMPLES for i in range(min(NUM_SAMPLES, len(self.questions)))]


def dealt(things: list[Any], engine: Engine) -> list[Any]:
    """This rank's share; where ranks must stay in step, with a repeated one at the end if others have more."""
    mine = things[engine.rank :: engine.world_size]
    longest = -(-len(things) // engine.world_size)
    return mine + things[: longest - len(mine)] if engine.in_step else mine


def evaluate(
    engine: Engine, task: Any, rows: Any, collate: Callable[[list[list[int]]], Any], batch_size: int
) -> dict[str, float]:
    """`eval/<name>` for each metric of the task, over all rows of all ranks."""
    batches = sequential(rows.lengths, batch_size)
    my_number = len(batches[engine.rank :: engine.world_size])
    objective = engine.objective
    was_training = objective.training
    objective.eval()
    totals: dict[str, float] = defaultdict(float)
    for number, batch in enumerate(dealt(batches, engine)):
        loss = engine.evaluate(collate([[index] for index in batch]))
        if number >= my_number:
            continue
        for name, (value, count, *_) in {**loss.terms, **loss.metrics}.items():
            totals[f"{name} sum"] += float(value)
            totals[f"{name} count"] += float(count)
    objective.train(was_training)
    return {f"eval/{name}": value for name, value in task.metrics.summarize(_reduced(engine, totals)).items()}


def _reduced(engine: Engine, totals: dict[str, float]) -> dict[str, tuple[float, float]]:
    """A rank without a single batch knows no names, so the names are agreed on first."""
    names = sorted(set().union(*engine.gather(sorted(totals))))
    summed = engine.sum({name: totals.get(name, 0.0) for name in names})
    terms = {name.rsplit(" ", 1)[0] for name in names}
    return {term: (summed[f"{term} sum"], summed[f"{term} count"]) for term in terms}
