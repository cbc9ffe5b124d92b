"""What was found, for a person and for a program."""

from collections.abc import Iterator, Sequence
from typing import Any

from launcher.verify_math import Findings

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
    """What was compared with what, how much may differ and why, and what was changed for it."""
    items = [", ".join(f"{count} {name}" for name, count in row.items()) for row in facts["counts"]]
    yield f"{facts['recipe']}: one global batch of {facts['rows']} rows, {_span(facts['lengths'])} tokens long"
    yield f"  the loss counts {'; '.join(items)}"
    if len(set(items)) == 1:
        yield "  note: it counts the same in every row, so taking the mean of means would not be noticed here"
    yield f"reference: one process, one micro-batch, padded, plain loss, fp32; loss {facts['loss']:.7g}, gradient {facts['norm']:.6g}"
    floor, factor = facts["floor"]["gradient"], facts["factor"]
    why = "with rows in reverse order and every weight moved to its neighbour in fp32, it differs from itself by"
    if facts["precision"] != "fp32":
        why = f"computed once more in {facts['precision']}, it is off by"
    yield f"  {why} {floor:.1e}; {factor:g} times that is allowed, {factor * floor:.1e} (of a parameter: by its own measure)"
    if facts["dropout"]:
        yield f"  dropout is switched off in {facts['dropout']} places; with it, training is the same for the same micro-batches alone"
    if facts["filled"]:
        yield f"  {facts['filled']} matrices are zero at the start and hide others; they have small random values here"


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
        outcome["variant"],
        " x ".join(map(str, outcome["shape"])),
        f"{outcome['loss']:.7g}",
        f"{outcome['loss_error']:.1e}",
        f"{outcome['gradient_norm']:.6g}",
        f"{outcome['gradient_error']:.1e}",
        _short(outcome["worst_parameter"]),
        f"{outcome['worst_parameter_error']:.1e}",
        f"{outcome['worst_parameter_allowed']:.1e}",
        outcome["verdict"],
    )


def _short(parameter: str) -> str:
    for wrapper in WRAPPERS:
        parameter = parameter.removeprefix(wrapper)
    return parameter.replace(".default.", ".").removesuffix(".weight")


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if len(set(numbers)) > 1 else str(numbers[0])
