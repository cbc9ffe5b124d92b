"""parquet: columns of one type each, which the rows together decide."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from launcher.data.formats.cells import Row
from launcher.data.formats.media import MEDIA
from launcher.data.writers.rows import dumped
from launcher.data.writers.writer import KINDS, At, Facts, Tally, Writer, as_text, in_columns
from launcher.errors import DataError

ROWS_PER_BATCH = 1_000
TURNS = ("messages", "prompt", "completion")  # lists of turns, or texts
NUMBERS = {"int", "float"}
NESTED = "values inside of turns, since rows differ in them: what a row lacks comes back as null, 1 as 1.0, keys in another order"


def _see(row: Row, facts: Facts) -> None:
    """What is nested in turns has the type that all rows together have."""
    import pyarrow

    turns = [(name, value) for name, value in in_columns(row).items() if name in TURNS]
    try:
        found = pyarrow.schema([(name, pyarrow.infer_type([value])) for name, value in turns])
        if not found.equals(facts.schema or pyarrow.schema([])):
            both = [facts.schema or found, found]
            facts.schema = pyarrow.unify_schemas(both, promote_options="permissive")
    except (pyarrow.ArrowException, OverflowError) as error:
        raise _one_type(error) from None


def _one_type(said: Any) -> DataError:
    return DataError(f"parquet holds one type a column: {str(said)[:300]}", fix="use jsonl")


def _whole(facts: Facts, tally: Tally) -> None:
    if 0 < facts.lists < facts.rows:
        raise _one_type("some rows have a label, and others a list of labels")


def _hold(row: Row, at: At) -> Row:
    if "messages" in row:
        return _through_columns(row, at)
    if _are_texts(at.facts):
        return as_text(row, at)
    return _with_fractions(row, at) if at.facts.label_types == NUMBERS else row


def _are_texts(facts: Facts) -> bool:
    return facts.label_types != NUMBERS and len(facts.label_types) > 1 or "big" in facts.label_types


def _with_fractions(row: Row, at: At) -> Row:
    label = row["label"]
    given = label if isinstance(label, list) else [label]
    if any(type(one) is int for one in given):
        at.change("labels that are whole numbers beside fractions become fractions: 1.0 for 1")
    held = [float(one) for one in given]
    return {**row, "label": held if isinstance(label, list) else held[0]}


def _through_columns(row: Row, at: At) -> Row:
    """The turns as they come back from columns of these types."""
    import pyarrow

    columns = in_columns(row)
    try:
        back = {
            name: pyarrow.array([columns[name]], at.facts.schema.field(name).type).to_pylist()[0]
            for name in TURNS
            if name in columns
        }
    except (pyarrow.ArrowException, OverflowError) as error:
        raise _one_type(error) from None
    turns = [turn for name in TURNS for turn in back.get(name, ())]
    held = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
    if _in_order(held) != _in_order(row["messages"]):
        at.lose(NESTED)
    return {**row, "messages": held}


def _in_order(turns: list[Row]) -> str:
    """The keys of a turn have no order; those inside of a tool call have, since a template writes them so."""
    return dumped([sorted(turn.items()) for turn in turns])


def _write(rows: Iterable[Row], path: Path, facts: Facts) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = _schema(facts)
    numbered = iter(rows)
    try:
        with pyarrow.parquet.ParquetWriter(path, schema) as file:
            while batch := [_cells(row) for row in islice(numbered, ROWS_PER_BATCH)]:
                file.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema))
    except (pyarrow.ArrowException, OverflowError) as error:
        raise _one_type(error) from None


def _cells(row: Row) -> Row:
    cells = in_columns(row)
    if "tools" in cells:
        cells["tools"] = dumped(cells["tools"])
    for name in MEDIA:
        if name in cells:
            is_inside = isinstance(cells[name], bytes)
            cells[name] = {"bytes": cells[name], "path": None} if is_inside else {"bytes": None, "path": cells[name]}
    return cells


def _schema(facts: Facts) -> Any:
    """As the hub has it: a picture or sound is {bytes, path}."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    types = dict.fromkeys(MEDIA, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    types |= {"tokens": texts, "tags": texts, "labels": texts, "size": pa.list_(pa.int64())}
    types |= {"boxes": pa.list_(pa.list_(pa.float64())), "label": _label_type(facts)}
    types["answers"] = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int64())]))
    nested = {field.name: field.type for field in facts.schema or ()}
    names = [name for name in facts.columns if name not in ("messages", "completion_turns")]
    return pa.schema([*nested.items(), *((name, types.get(name, pa.string())) for name in names if name not in nested)])


def _label_type(facts: Facts) -> Any:
    import pyarrow as pa

    known = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    only = "str" if _are_texts(facts) else min(facts.label_types, default="str")  # "float" comes before "int"
    item = known.get(only, pa.string())
    return pa.list_(item) if facts.lists else item


PARQUET = Writer(
    kinds=tuple(KINDS),
    hold=_hold,
    write=_write,
    suffixes=(".parquet",),
    whole=_whole,
    see=_see,
    bytes_inside=True,
    loses=dict.fromkeys(("messages", "prompt_completion"), "values of tool calls in which rows differ"),
)
