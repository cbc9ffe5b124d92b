"""What few rows of training data ask for: which model, what of it to train, how long; each with its reason, and whose it is."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.errors import DataError, RecipeError

# Rows. Rules of thumb of this launcher: no study names a limit that holds for all data.
VERY_FEW, FEW = 100, 1_000
THUMB = "rule of thumb"
WIDTH = 116
WRITING = ("causal_lm", "seq2seq_lm")  # the tasks whose answer is a text


@dataclass(frozen=True)
class Advice:
    """`words`: overrides of a recipe that do it. `source`: a study, or `THUMB`."""

    what: str
    why: str
    source: str
    words: tuple[str, ...] = ()


HEAD_ALONE = Advice(
    "Train the head alone at first, and see whether more is needed.",
    "With so few rows each layer that is trained fits their chance; what the model has learned elsewhere stays whole.",
    THUMB,
    ("trainable=[head]", "optimizer.learning_rate=1e-3"),
)
HEAD_FIRST = Advice(
    "Train the head before the rest.",
    "Gradients through a random head distort what the model knows; measured on pictures unlike those of the training data.",
    "Kumar et al., arXiv:2202.10054",
    ("linear_probe_then_finetune={num_train_epochs: 5, learning_rate: 1e-3}",),
)
FREEZE = Advice(
    "Or freeze the lower layers: about half of them, and the embeddings.",
    "Training the last quarter of BERT's layers kept 90 % of the quality; which share is best for your data is not known.",
    "Lee et al., arXiv:1911.03090",
    ("freeze=[embeddings, 'layers[:6]']",),
)
LORA = Advice(
    "Or LoRA: method lora trains less than 1 % of the parameters.",
    "It learns less, and forgets less of what the model knew.",
    "Hu et al., arXiv:2106.09685; Biderman et al., arXiv:2405.09673",
    ("method=lora",),
)
BASE_SIZED = Advice(
    "Begin with a model of about 110M parameters or fewer (base, or smaller).",
    "Large ones fail to train on small data sets more often; once the small one works, try the next larger.",
    "Devlin et al., arXiv:1810.04805, section 4.1; the limit is a " + THUMB,
)
LONGER = Advice(
    "Train longer, with a small learning rate and warm-up.",
    "BERT on few rows ends badly from too few steps more often than from over-fitting; 20 epochs at 2e-5 were stable.",
    "Mosbach et al., arXiv:2006.04884",
    ("training.num_train_epochs=20", "optimizer.learning_rate=2e-5", "scheduler.warmup_steps=0.1"),
)
SEEDS = Advice(
    "Try three to five seeds, and compare their mean, before you believe a difference.",
    "Seeds alone move the result of small data sets by several points.",
    "Dodge et al., arXiv:2002.06305",
    ("seed=1",),
)
STOP = Advice(
    "Stop when evaluations no longer get better; keep at least 50 rows to evaluate with.",
    "With fewer, one row more or less is two points of accuracy.",
    THUMB,
    ("evaluation.early_stopping_patience=3",),
)
INSTRUCTED = Advice(
    "Begin with a model that follows instructions (Instruct, or Qwen3) rather than a bare one.",
    "Few rows teach a form, not knowledge: 1,000 chosen conversations sufficed for a style, from a model that knew the matter.",
    "Zhou et al., arXiv:2305.11206",
)
ADAPT = Advice(
    "LoRA, or QLoRA with a larger model, rather than full training.",
    "It learns less, and forgets less of what the model knew; 4 bits with LoRA came up to full training in 16 bits.",
    "Biderman et al., arXiv:2405.09673; Dettmers et al., arXiv:2305.14314",
    ("method=lora",),
)
FEW_EPOCHS = Advice(
    "One to three epochs, and stop when the loss on held-out rows rises.",
    "A decoder learns few rows by heart within some epochs.",
    THUMB,
    ("training.num_train_epochs=3", "evaluation.early_stopping_patience=2"),
)
ENOUGH = Advice(
    "Nothing about the number of rows speaks against full training of any model that fits.",
    f"From about {FEW:,} rows on, the base-sized models train without special care; many classes ask for more rows.",
    THUMB,
)


def advice(rows: int, kinds: Sequence[str], task: str | None = None) -> dict[str, list[Advice]]:
    """For so many rows and the kinds of models that are asked about: what it is about -> what to do, the first thing first.

    Decoders both read and write; a `task` says which.
    """
    if rows >= FEW:
        return {"": [ENOUGH]}
    of_texts = {"encoder", "decoder"} & set(kinds)
    reads = task not in WRITING and (bool(of_texts) or any(kind != "seq2seq" for kind in kinds))
    writes = task in (None, *WRITING) and bool({"decoder", "seq2seq"} & set(kinds))
    found = {}
    if reads:
        head = [HEAD_ALONE] * (rows < VERY_FEW) + [HEAD_FIRST]
        found["to classify, tag or find"] = [BASE_SIZED, *head, FREEZE, LORA, LONGER] if of_texts else head
    if writes:
        found["to write texts"] = [INSTRUCTED, ADAPT, FEW_EPOCHS] if "decoder" in kinds else [ADAPT]
    return {**found, "in any case": [SEEDS, STOP]}


def text(rows: int, given: Mapping[str, Sequence[Advice]]) -> str:
    lines = [f"For {rows:,} rows of training data:"]
    for about, listed in given.items():
        lines += [f"{about}:"] if about else []
        for one in listed:
            said = f"{one.what} {one.why} [{one.source}]"
            lines += textwrap.wrap(said, WIDTH, initial_indent="* ", subsequent_indent="  ")
            if one.words:
                lines.append("    " + " ".join(f'"{word}"' if " " in word else word for word in one.words))
    lines.append(f"The limits of {VERY_FEW:,} and {FEW:,} rows are rules of thumb; measure on your own held-out rows.")
    return "\n".join(lines)


def as_json(given: Mapping[str, Sequence[Advice]]) -> list[dict[str, Any]]:
    return [{"about": about, **asdict(one)} for about, listed in given.items() for one in listed]


def of_recipe(path: str, task: str | None) -> tuple[str, int]:
    """(task, rows of data.train that can be used, before data.clean). RecipeError where `task` is another than the recipe's."""
    from launcher import parts, recipe
    from launcher.data import sources

    loaded = recipe.load(Path(path))
    if task not in (None, loaded.task):
        raise RecipeError(f"--task {task}: the recipe's task is {loaded.task}", where=path, fix="leave --task out")
    spoiled: list[DataError] = []
    formats = parts.load("tasks", loaded.task).TRAITS.formats
    rows = sum(1 for source in loaded.data.train for _ in sources.examples(source, formats, spoiled.append))
    if not rows:
        raise DataError("data.train has no row that can be used", where=path)
    return loaded.task, rows
