"""What was found, for a person and for a program."""

from collections.abc import Iterator, Sequence
from typing import Any

from launcher.verify_math import Findings, variants

HEADINGS = ("variant", "cut", "loss", "off by", "gradient", "off by", "worst parameter", "off by", "allowed", "verdict")
WRAPPERS = ("model.", "base_model.model.", "model.")  # the Objective's, PEFT's, the causal model's


def text(findings: Findings) -> str:
    return "\n".join([*_before(findings.facts), "", *_table(findings), "", conclusion(findings)])


def conclusion(findings: Findings) -> str:
    wrong, failed, refused = (findings.named(verdict) for verdict in ("WRONG", "failed", "refused"))
    same = len(findings.named("ok"))
    parts = [f"the loss or the gradient differs by more than rounding: {', '.join(wrong)}"] if wrong else []
    parts += [f"could not be computed: {', '.join(failed)}"] if failed else []
    parts += [f"{'the other ' if parts else ''}{same} give the same loss and gradients, to rounding"] if same else []
    parts += [f"refused: {', '.join(refused)}"] if refused else []
    return "; ".join(parts)


def as_json(findings: Findings) -> dict[str, Any]:
    return {"facts": findings.facts, "variants": findings.outcomes, "conclusion": conclusion(findings)}


def _before(facts: dict[str, Any]) -> Iterator[str]:
    """What is compared with what, how far apart it may be and why, and what was changed to see it."""
    counted = ", ".join(f"{_span(counts)} {term}" for term, counts in facts["counts"].items())
    yield f"{facts['recipe']}: a global batch of {facts['rows']} rows of {_span(facts['lengths'])} tokens, with a loss on {counted}"
    yield (
        "reference: one process, one micro-batch, padded, plain loss, all activations kept, fp32: "
        f"loss {facts['loss']:.7g}, gradient {facts['norm']:.6g}"
    )
    floor, factor = facts["floor"]["gradient"], facts["factor"]
    why = "with its rows in reverse order and every weight moved to its neighbour in fp32"
    if facts["precision"] != "fp32":
        why = f"computed in {facts['precision']}"
    yield f"  {why}, its gradient is off by {floor:.1e}; {factor:g} times that is allowed: {factor * floor:.1e}"
    yield from (f"  {note}" for note in _notes(facts))


def _notes(facts: dict[str, Any]) -> Iterator[str]:
    if all(len(set(counts)) == 1 for counts in facts["counts"].values()):
        yield "the loss counts the same in every row, so a mean of means would not be noticed here"
    if facts["flash"]:
        yield f"fp32 is computed without {facts['flash']}, which has only 16 bits; --as-configured computes with it"
    if facts["had_dropout"]:
        yield "dropout is switched off; with it, training is the same only for the same per_device_train_batch_size"
    if facts["filled"]:
        yield f"{facts['filled']} matrices that start as zeros and hide others have small random values here"


def _table(findings: Findings) -> Iterator[str]:
    rows = [_cells(outcome) for outcome in findings.outcomes]
    measured = [cells for cells in (HEADINGS, *rows) if len(cells) == len(HEADINGS)]
    widths = [max(len(cells[column]) for cells in measured) for column in range(len(HEADINGS))]
    widths[0] = max(len(cells[0]) for cells in (HEADINGS, *rows))
    for cells in (HEADINGS, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def _cells(outcome: dict[str, Any]) -> Sequence[str]:
    if "loss" not in outcome:
        return outcome["variant"], f"{outcome['verdict']}: {outcome['reason']}"
    return (
        _title(outcome),
        " x ".join(map(str, outcome["cut"])),
        f"{outcome['loss']:.7g}",
        f"{outcome['loss_error']:.1e}",
        f"{outcome['gradient_norm']:.6g}",
        f"{outcome['gradient_error']:.1e}",
        _short(outcome["worst_parameter"]),
        f"{outcome['worst_parameter_error']:.1e}",
        f"{outcome['worst_parameter_allowed']:.1e}",
        ": ".join([outcome["verdict"], *filter(None, [outcome.get("reason")])]),
    )


def _title(outcome: dict[str, Any]) -> str:
    """What a recipe combines stands beside it."""
    if outcome["variant"] != variants.RECIPE:
        return str(outcome["variant"])
    return ", ".join([outcome["variant"], outcome["strategy"], *(name for name in variants.ALONE if outcome[name])])


def _short(parameter: str) -> str:
    for wrapper in WRAPPERS:
        parameter = parameter.removeprefix(wrapper)
    return parameter.replace(".default.", ".").removesuffix(".weight")


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if len(set(numbers)) > 1 else str(numbers[0])
