"""The known models as a table of at most 120 columns, and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.known_models import KINDS, Known
from launcher.known_models.choice import Asked, fitting, own_recipe, start
from launcher.memory.cards import GIB

NOTHING = "-"
HEADINGS = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
RIGHT = {"size", "context", *HEADINGS.values()}
SUFFIXES = ((10**9, "B"), (10**6, "M"), (10**3, "K"))


def text(found: Mapping[str, Sequence[Known]], what: Asked) -> str:
    """A block of lines for each kind."""
    listed = [known for models in found.values() for known in models]
    wide = max(len(known.name) for known in listed)
    return "\n\n".join("\n".join(_block(kind, models, what, wide)) for kind, models in found.items())


def records(found: Mapping[str, Sequence[Known]], what: Asked) -> list[dict[str, Any]]:
    """What the table has, in bytes."""
    return [_record(known, what) for models in found.values() for known in models]


def _record(known: Known, what: Asked) -> dict[str, Any]:
    memory = {method: known.memory_bytes[method] for method in what.methods if method in known.memory_bytes}
    return {
        "name": known.name,
        "kind": known.kind,
        "parameters": known.parameters,
        "context": known.context,
        "licence": known.licence,
        "tasks": list(known.tasks),
        "memory_bytes": memory,
        "with_activations": known.with_activations,
        **({} if what.gpu is None else {"fits": list(fitting(known, what))}),
        "recipe": own_recipe(known, what) or start(known.kind, what.task),
    }


def _block(kind: str, models: Sequence[Known], what: Asked, wide: int) -> Iterator[str]:
    tasks = dict.fromkeys(task for known in models for task in known.tasks)
    yield f"{KINDS[kind].title}: {', '.join(tasks)}"
    yield f"  memory in GiB, {_batch(kind, models)}"
    method = f" method={what.methods[0]}" if len(what.methods) == 1 else ""
    yield f"  begin with recipes/{start(kind, what.task)}.yaml model.name_or_path=MODEL{method}"
    rows = [_headings(what), *(_row(known, what) for known in models)]
    names = rows[0]
    widths = [max(len(row[place]) for row in rows) for place in range(len(names))]
    widths[0] = wide
    for row in rows:
        cells = zip(names, row, widths, strict=True)
        yield "  ".join(
            f"{cell:>{width}}" if name in RIGHT else f"{cell:<{width}}" for name, cell, width in cells
        ).rstrip()


def _batch(kind: str, models: Sequence[Known]) -> str:
    batch = KINDS[kind].batch
    return batch if models[0].with_activations else "without activations, which are not known"


def _headings(what: Asked) -> list[str]:
    fits = [] if what.gpu is None else ["fits"]
    return ["model", "size", "context", "licence", *(HEADINGS[method] for method in what.methods), *fits, "recipe"]


def _row(known: Known, what: Asked) -> list[str]:
    sizes = [known.memory_bytes.get(method) for method in what.methods]
    own = own_recipe(known, what)
    return [
        known.name,
        amount(known.parameters),
        f"{known.context:,}" if isinstance(known.context, int) else known.context or NOTHING,
        known.licence,
        *(NOTHING if size is None else f"{size / GIB:,.1f}" for size in sizes),
        *([] if what.gpu is None else [_fits(known, what)]),
        "" if own == start(known.kind, what.task) else own or "",
    ]


def _fits(known: Known, what: Asked) -> str:
    """The heaviest method that fits, in doubt where activations are not known; those after it take less."""
    found = fitting(known, what)
    return "no" if not found else found[0] + ("" if known.with_activations else "?")


def amount(number: int) -> str:
    """Three digits: `8.03B`, `109M`."""
    size, suffix = next((pair for pair in SUFFIXES if number >= 0.9995 * pair[0]), (1, ""))
    value = number / size
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{suffix}"
