"""Values while they are being derived, each with where it came from."""

from typing import Any

from launcher.recipe import Recipe


class Notes:
    """Two dictionaries under the same names: what a value is, and its origin."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def take(self, name: str, key: str, value: Any) -> Any:
        """A value as the recipe has it (or its default)."""
        return self.put(name, value, self.recipe.origin(key))

    def put(self, name: str, value: Any, origin: str) -> Any:
        self.values[name], self.origins[name] = value, origin
        return value

    def __getitem__(self, name: str) -> Any:
        return self.values[name]
