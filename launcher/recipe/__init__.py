"""A recipe file becomes a frozen `Recipe`, or one list of all that is wrong with it, each at its file, line and column.

    recipe = load("recipes/gpt_lora.yaml", ["optimizer.learning_rate=1e-4"])
    recipe.optimizer.learning_rate, recipe.origin("optimizer.learning_rate")     # 0.0001, "command line"

Order: YAML and `extends` and overrides (`layers`), paths (`local_files`), keys and types (`validate`, against `schema`
and the `Config` of the named parts), contradictions (`rules`). Neither torch nor transformers is imported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr

from launcher.errors import RecipeErrors
from launcher.recipe import layers, local_files, searched, staged
from launcher.recipe.rules import value_at
from launcher.recipe.validate import PARTS, validated
from launcher.recipe.yaml_source import DEFAULT, Dumper, Node, Place, Problem
from launcher.schema import Sections
from launcher.section import Section, join, leaves_in, note_reads, sections_in
from launcher.suggest import STAGES, nearest


class Recipe(Sections):
    """The sections, and where each key was written. Equal when all values are equal."""

    _places: dict[str, Place] = PrivateAttr(default_factory=dict)
    _tree: Node | None = PrivateAttr(default=None)

    def origin(self, key: str) -> str:
        """`recipes/x.yaml:14:3`, `command line` or `default` for a dotted key; a KeyError if there is no such key."""
        value_at(self, key)
        place = self._places.get(key)
        return "default" if place is None else str(place) if place.line else "command line"

    def explicit_keys(self) -> list[str]:
        """Dotted keys given in a file or on the command line, without the sections that hold them."""
        return [key for key, _ in leaves_in(self) if key in self._places]

    def to_yaml(self) -> str:
        """The recipe as resolved, defaults included; loading it gives an equal recipe."""
        values = self.model_dump(mode="json", exclude={"extends"})
        return str(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))

    def of_a_trial(self) -> "Recipe":
        """The recipe without its sweep, for a training of its own values."""
        assert self._tree is not None, "only a recipe that was loaded has a sweep"
        tree = searched.without(self._tree, ("sweep",))
        recipe = self._stage(tree)
        recipe._tree = tree
        return recipe

    def as_written(self) -> str:
        """What its files and the command line say, together, without its sweep and its folder; paths are absolute."""
        assert self._tree is not None, "only a recipe that was loaded was written"
        values = searched.without(self._tree, searched.NOT_OF_A_TRIAL).plain()
        return str(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))

    def start_audit(self) -> None:
        """Begin to note which keys are read; printing, comparing and dumping do not count."""
        note_reads(self)

    def in_stages(self, layers: int) -> list[tuple[str, "Recipe"]]:
        """(name, recipe) of each stage, in a model with so many layers; none for a recipe without stages.

        What is read of them counts as read of this one, so that one audit serves all.
        """
        tree = self._tree
        assert tree is not None, "only a recipe that was loaded has stages"
        made = staged.shorthand(self, layers)
        listed = [(name, staged.changed(tree, staged.node_of(keys))) for name, keys in made] or staged.trees(tree)
        if listed and self._reads is not None:
            self._reads |= {key for key, _ in leaves_in(self) if key.partition(".")[0] in STAGES}
        return [(name, self._stage(stage)) for name, stage in listed]

    def _stage(self, tree: Node) -> "Recipe":
        problems: list[Problem] = []
        recipe = validated(Recipe, tree, problems)
        if problems or recipe is None:
            raise _errors(problems, str(tree.place))
        recipe._places = dict(_places(tree))
        for _, section in sections_in(recipe):
            section._reads = self._reads
        return recipe

    def unread(self) -> list[str]:
        """Located messages for keys that were given, are not at their default, and were not read since `start_audit`.

        A key that spells out its default asks for what happens anyway, so a run's own resolved recipe can be run again.
        """
        reads = self._reads
        assert reads is not None, "start_audit comes first"
        return [
            f"{self._places[key]} {key}: nothing in this run uses it; take it out"
            for key, is_default in leaves_in(self)
            if key in self._places and key not in reads and not is_default
        ]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, changed by `key.path=value` overrides. Raises RecipeErrors: all problems, by line."""
    problems: list[Problem] = []
    tree = layers.read(path, overrides, problems)
    if tree is None:
        raise _errors(problems, str(path))
    if misspelt := _misspelt_extends(tree):  # without what it extends, everything else would look wrong
        raise _errors([*problems, misspelt], str(path))
    missing: list[Problem] = []
    tree = local_files.resolve(_with_name(_without_empty_sections(tree), Path(path).stem), missing)
    tree = searched.resolved(tree, missing)
    recipe = validated(Recipe, tree, problems)
    problems += missing
    for _, stage in staged.trees(tree) if recipe is not None else ():
        validated(Recipe, stage, problems)
    if recipe is not None:
        problems += searched.problems(recipe, tree)
    if problems or recipe is None:
        raise _errors(problems, str(path))
    recipe._places, recipe._tree = dict(_places(tree)), tree
    return recipe


def _misspelt_extends(tree: Node) -> Problem | None:
    for key, node in tree.value.items():
        if key not in Recipe.model_fields and nearest(key, Recipe.model_fields) == "extends":
            return Problem(node.key_place, f"{key} is not an option of a recipe; did you mean extends?", key)
    return None


def _errors(problems: list[Problem], path: str) -> RecipeErrors:
    """Sorted by line; first the recipe, then what it extends, last the command line."""

    def order(problem: Problem) -> tuple[bool, bool, str, int, int]:
        place = problem.place
        return place.source.startswith("command line"), place.source != path, place.source, place.line, place.column

    return RecipeErrors(list(dict.fromkeys(map(str, sorted(problems, key=order)))))


# --- the tree before validation ---------------------------------------------------------------------------------------


def _without_empty_sections(tree: Node) -> Node:
    """`export:` with nothing below it is a section without keys; null is no value for a section."""
    sections = {name for name, field in Recipe.model_fields.items() if _is_section(field.annotation)} | set(PARTS)
    kept = {key: node for key, node in tree.value.items() if node.value is not None or key not in sections}
    return replace(tree, value=kept)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _with_name(tree: Node, stem: str) -> Node:
    """The name of the run is the file's, unless given."""
    return tree if "name" in tree.value else replace(tree, value={"name": Node(stem, DEFAULT, DEFAULT), **tree.value})


def _places(node: Node, key: str = "") -> Iterator[tuple[str, Place]]:
    items = (
        node.value.items()
        if isinstance(node.value, dict)
        else enumerate(node.value)
        if isinstance(node.value, list)
        else ()
    )
    for step, child in items:
        if child.key_place is not DEFAULT:
            yield join(key, step), child.key_place
        yield from _places(child, join(key, step))
