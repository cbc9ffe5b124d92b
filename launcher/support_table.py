"""SUPPORT.md: what `support.RULES` decide about every combination of `support.CHOICES`, as a table for people."""

import itertools
from collections import Counter
from collections.abc import Iterator

from launcher.support import CHOICES, RULES, Combination, Rule, needs, refusals

TRAINED, NEEDS, REFUSED = "trained", "needs hardware", "refused"
# The quantisation of each method that can be written down: qlora without one does not exist.
BASES = tuple((m, q) for m in CHOICES["method"] for q in CHOICES["quantization"] if (m, q) != ("qlora", "none"))
REST = ("packing", "activation_checkpointing", "precision")

HEAD = """\
# What trains with what

Written by `launcher support`; a test compares. Every combination of task, method, strategy, quantisation, packing, activation
checkpointing and precision is one of

* **trained**: on CPU processes (gloo), with the same losses and gradient norms as one process without packing's neighbours,
  recomputation or sharding. `make test-all` trains a set of runs in which every combination of three choices occurs.
* **needs hardware**: takes a GPU, so no CPU can prove it. Nothing of it is called trained.
* **refused**: with the line of the recipe, the reason and what to use instead, before anything is loaded.

The table is about causal_lm. The other tasks have no packing; `tests/test_every_task.py` trains each with every pair of method
(full, lora, qlora), strategy (none, ddp, zero1, zero2, zero3), recomputation and precision (fp32, bf16), in the same sense.

A CPU proves what is computed, not how fast, and not CUDA's kernels: on GPUs the same code has not been measured.
"""


def combinations() -> Iterator[Combination]:
    """All that can be written into a recipe."""
    for values in itertools.product(*CHOICES.values()):
        made = Combination(**dict(zip(CHOICES, values, strict=True)))
        if (made.method, made.quantization) in BASES:
            yield made


def verdict(combination: Combination) -> tuple[str, list[Rule]]:
    """trained, needs hardware or refused, and the rules that say so."""
    if found := list(refusals(combination)):
        return REFUSED, found
    found = list(needs(combination))
    return (NEEDS, found) if found else (TRAINED, [])


def page() -> str:
    return "\n".join([HEAD, *_counts(), "", *_table(), "", *_rules()]) + "\n"


def _counts() -> list[str]:
    counts = Counter(verdict(combination)[0] for combination in combinations())
    total = sum(counts.values())
    return [
        f"{total:,} combinations: " + ", ".join(f"{counts[name]:,} {name}" for name in (TRAINED, NEEDS, REFUSED)) + "."
    ]


def _table() -> list[str]:
    """Rows are methods, columns strategies; a cell tells what holds for packing, checkpointing and precision of any kind."""
    strategies = CHOICES["strategy"]
    lines = [f"| method | {' | '.join(strategies)} |", f"| --- |{' --- |' * len(strategies)}"]
    for method, quantization in BASES:
        name = method if quantization == "none" else f"{method}, {quantization}"
        cells = [_cell(method, quantization, strategy) for strategy in strategies]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", "A number is a rule below that some or all of the cell's combinations meet."]


def _cell(method: str, quantization: str, strategy: str) -> str:
    found: Counter[str] = Counter()
    numbers: set[int] = set()
    for values in itertools.product(*(CHOICES[name] for name in REST)):
        rest = dict(zip(REST, values, strict=True))
        name, rules = verdict(Combination(method=method, strategy=strategy, quantization=quantization, **rest))
        found[name] += 1
        numbers |= {RULES.index(rule) + 1 for rule in rules}
    best = next(name for name in (TRAINED, NEEDS, REFUSED) if found[name])
    return best + (f" ({', '.join(map(str, sorted(numbers)))})" if numbers else "")


def _rules() -> list[str]:
    lines = ["| | at | because | instead |", "| --- | --- | --- | --- |"]
    for number, rule in enumerate(RULES, 1):
        because = rule.reason + (f": needs a {rule.hardware}" if rule.hardware else "")
        lines.append(f"| {number} | `{rule.key}` | {because} | {rule.instead} |")
    return lines
