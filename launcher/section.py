"""The ground that all sections of a recipe stand on: frozen, strict, and able to note which fields are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, PrivateAttr


class FrozenDict(dict[str, Any]):
    """A dict that refuses to be changed, for keys such as `columns` and `model.init`; `plain` makes a usual copy."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a recipe is frozen: change the file, or copy the mapping with section.plain")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """The same value with tuples for lists and `FrozenDict` for dicts, all the way down."""
    if isinstance(value, dict):
        return FrozenDict({key: freeze(item) for key, item in value.items()})
    return tuple(freeze(item) for item in value) if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """The same value as ordinary lists and dicts, for libraries that insist on them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class Section(BaseModel):
    """Base of every section, and of the `Config` of every part. Reading a field is noted while an audit runs."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
    _key: str = PrivateAttr(default="")
    _reads: set[str] | None = PrivateAttr(default=None)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("_") and name in type(self).__pydantic_fields__:
            private = super().__getattribute__("__pydantic_private__")
            if private and private["_reads"] is not None:
                private["_reads"].add(join(private["_key"], name))
        return value

    def __eq__(self, other: object) -> bool:
        """Equal when all values are equal; where they were written does not count."""
        return type(self) is type(other) and self.__dict__ == other.__dict__


def join(*words: str | int) -> str:
    """Dotted key from its words: `join("data.train", 0, "path")` is `data.train.0.path`."""
    return ".".join(str(word) for word in words if word != "")


def sections_in(section: Section, key: str = "") -> Iterator[tuple[str, Section]]:
    """(dotted key, section) of a section and all below it. Looks past the read-audit."""
    yield key, section
    for name, value in section.__dict__.items():
        if isinstance(value, Section):
            yield from sections_in(value, join(key, name))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Section):
                    yield from sections_in(item, join(key, name, index))


def leaves_in(section: Section) -> Iterator[tuple[str, bool]]:
    """(dotted key, is it the default) of every value below a section that is not a section itself."""
    for key, part in sections_in(section):
        for name, value in part.__dict__.items():
            items = value if isinstance(value, tuple) else (value,)
            if not any(isinstance(item, Section) for item in items):
                default = type(part).model_fields[name].get_default(call_default_factory=True)
                yield join(key, name), bool(value == default)


def note_reads(section: Section) -> set[str]:
    """A set that from now on receives the dotted key of every field that is read, of this section and all below it."""
    reads: set[str] = set()
    for _, part in sections_in(section):
        part._reads = reads
    return reads


def forget_reads(section: Section) -> None:
    for _, part in sections_in(section):
        part._reads = None


@dataclass(frozen=True)
class Expect:
    """Words for an error message about a type that is more than its Python annotation tells."""

    words: str
