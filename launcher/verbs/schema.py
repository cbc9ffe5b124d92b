"""Print the JSON Schema of recipes, with which an editor completes and checks them while you type."""

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "launcher schema > recipe.schema.json, then begin a recipe with: # yaml-language-server: $schema=PATH"
    )


def run(args: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2))
    return 0


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe; the parts' sections depend on method, optimizer.name and task."""
    from launcher import parts
    from launcher.recipe.validate import PARTS
    from launcher.schema import Sections

    recipe = _of(Sections)
    defs = recipe.pop("$defs")
    recipe |= {"title": "launcher recipe", "description": "All keys of a recipe.", "required": []}
    for key, value in recipe["properties"].items():
        if "$ref" in value:
            recipe["properties"][key] = _or_null(value.pop("$ref")) | value
    for key, kind in (("task", "tasks"), ("method", "adapters")):
        recipe["properties"][key]["enum"] = parts.names(kind)
    defs["Source"]["properties"]["format"]["anyOf"][0]["enum"] = _formats()
    for key in ("columns", "defaults"):
        defs["Source"]["properties"][key]["propertyNames"] = {"enum": _our_columns()}
    defs["Logging"]["properties"]["trackers"]["items"]["enum"] = parts.names("trackers")
    rules: list[dict[str, Any]] = [{"if": {"not": _EXTENDS}, "then": {"required": ["task", "method", "model", "data"]}}]
    for section, kind in PARTS.items():
        for name in parts.names(kind):
            config = _of(parts.load(kind, name).Config)
            defs |= config.pop("$defs", {})
            defs[f"{section}.{name}"] = config
            rules.append(
                {"if": _named(section, name), "then": {"properties": {section: _or_null(f"#/$defs/{section}.{name}")}}}
            )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **recipe,
        "allOf": rules,
        "$defs": defs,
    }


_EXTENDS = {"required": ["extends"]}  # what is missing here may stand in the recipe that this one extends


def _named(section: str, name: str) -> dict[str, Any]:
    """The condition under which a section belongs to the part `name`."""
    from launcher.recipe.validate import DEFAULT_NAMES, NAMED_BY

    if section not in DEFAULT_NAMES:
        key = NAMED_BY[section]
        return {"properties": {key: {"const": name}}, "required": [key]}
    named = {"required": [section], "properties": {section: {"required": ["name"]}}}
    condition = {**named, "properties": {section: {"required": ["name"], "properties": {"name": {"const": name}}}}}
    return (
        {"anyOf": [condition, {"not": {"anyOf": [named, _EXTENDS]}}]} if DEFAULT_NAMES[section] == name else condition
    )


def _or_null(reference: str) -> dict[str, Any]:
    return {"anyOf": [{"$ref": reference}, {"type": "null"}]}


def _of(model: Any) -> dict[str, Any]:
    """Pydantic's schema of a section, without a title for every key."""
    from pydantic.json_schema import GenerateJsonSchema

    class WithoutTitles(GenerateJsonSchema):
        ignored_warning_kinds = {"non-serializable-default"}

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    found: dict[str, Any] = model.model_json_schema(schema_generator=WithoutTitles)
    return found


def _our_columns() -> list[str]:
    from launcher.data.columns import OUR_COLUMNS

    return list(OUR_COLUMNS)


def _formats() -> list[str]:
    from launcher.data.formats import FORMATS

    return list(FORMATS)
