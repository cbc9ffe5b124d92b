"""The last evaluation in detail, whatever the task: evaluation.json checked part by part and laid out for the page.

What is not there is not shown; what is there but malformed is left out, and the page says so.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from launcher.report import words
from launcher.report.confusion import Confusion, laid_out
from launcher.report.pictures import Embedded, embedded
from launcher.report.planes import Plane, plane
from launcher.run_folder import RunFolder

# Not pydantic's str: a model may answer with half of a character, and a label may be a number or a list of names.
Said = Annotated[Any, AfterValidator(words.said)]


class ConfusionMatrix(BaseModel):
    """counts[reference][predicted], over the same labels both ways."""

    labels: list[Said]
    counts: list[list[NonNegativeInt]]

    @model_validator(mode="after")
    def _square(self) -> "ConfusionMatrix":
        if not self.labels or {len(self.counts), *map(len, self.counts)} != {len(self.labels)}:
            raise ValueError(f"counts must have {len(self.labels)} rows and columns, one for each label")
        return self


class Table(BaseModel):
    columns: list[Said]
    rows: list[list[Any]]

    @model_validator(mode="after")
    def _rectangular(self) -> "Table":
        if not self.rows or {*map(len, self.rows)} != {len(self.columns)}:
            raise ValueError(f"each row must have {len(self.columns)} cells, one for each column")
        return self

    def is_share(self, column: int) -> bool:
        """Whether all numbers of a column lie between 0 and 1, so that bars can be compared; counts are none."""
        values = [row[column] for row in self.rows if words.is_number(row[column])]
        return any(isinstance(v, float) for v in values) and all(0 <= v <= 1 for v in values)


class Line(BaseModel):
    """`apart`: no line joins the points."""

    name: Said = ""
    points: list[tuple[float, float]]
    apart: bool = False


class Curve(BaseModel):
    """Several lines in one frame; x and y name its axes."""

    title: Said = ""
    x: Said = ""
    y: Said = ""
    lines: list[Line]


class WorstError(BaseModel):
    """What the model got wrong; keys that are not known here become columns of their own."""

    model_config = ConfigDict(extra="allow")
    where: Said = ""
    input: Said = ""
    reference: Said = None
    predicted: Said = None
    confidence: float | None = None
    picture: str | None = None


class Picture(BaseModel):
    file: str
    where: Said = ""
    caption: Said = ""


PARTS: dict[str, Any] = {
    "confusion_matrix": ConfusionMatrix,
    "table": Table,
    "curves": list[Curve],
    "errors": list[WorstError],
    "pictures": list[Picture],
    "notes": list[Said],
}


@dataclass(frozen=True)
class Errors:
    """`columns` are the names of what every error has beside its picture."""

    columns: list[str]
    rows: list[tuple[Embedded | None, list[Any]]]

    @property
    def pictured(self) -> bool:
        return any(picture for picture, _ in self.rows)


@dataclass(frozen=True)
class Details:
    """What the template shows; each part may be missing."""

    step: Any
    confusion: Confusion | None
    table: Table | None
    curves: list[Plane]
    errors: Errors | None
    pictures: list[tuple[Embedded, Picture]]
    notes: list[str]


def details_of(folder: RunFolder) -> Details | None:
    """None where the run folder holds nothing in detail that could be shown."""
    content = folder.evaluation()
    parts = {name: _checked(folder, name, content.get(name)) for name in PARTS}
    if not any(parts.values()):
        return None
    matrix, errors = parts["confusion_matrix"], parts["errors"]
    return Details(
        step=content.get("step"),
        confusion=laid_out(matrix.labels, matrix.counts) if matrix else None,
        table=parts["table"],
        curves=[
            plane(
                c.title,
                c.x,
                c.y,
                [(line.name, line.points) for line in c.lines],
                {line.name for line in c.lines if line.apart},
            )
            for c in parts["curves"] or []
        ],
        errors=_errors(folder, errors) if errors else None,
        pictures=[(embedded(folder.path, picture.file), picture) for picture in parts["pictures"] or []],
        notes=parts["notes"] or [],
    )


def _checked(folder: RunFolder, name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        return TypeAdapter(PARTS[name]).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (name, *first["loc"])))
        folder.unreadable.append(f"evaluation.json: {name} is left out, because of {place}: {first['msg']}")
        return None


def _errors(folder: RunFolder, errors: list[WorstError]) -> Errors:
    """Columns that no error fills are left out; extra keys come last, in the order in which they turn up."""
    found = [error.model_dump(exclude={"picture"}) for error in errors]
    names = dict.fromkeys(name for error in found for name in ("input", *error, "where"))
    names["where"] = names.pop("where")  # to the end
    columns = [name for name in names if any(error.get(name) not in (None, "") for error in found)]
    pictures = [embedded(folder.path, error.picture) if error.picture else None for error in errors]
    return Errors(columns, [(p, [e.get(c) for c in columns]) for p, e in zip(pictures, found, strict=True)])
