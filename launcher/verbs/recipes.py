"""List the recipes that come with the launcher, or copy one out with everything it needs.

`launcher recipes` lists; `launcher recipes copy NAME [FOLDER]` writes NAME.yaml and what it refers to.
"""

import argparse
import shutil
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=["list", "copy"], default="list", help="what to do (default: list)"
    )
    parser.add_argument("name", nargs="?", help="recipe to copy")
    parser.add_argument("folder", nargs="?", default=".", help="where to (default: here)")


def run(args: argparse.Namespace) -> int:
    from launcher.shipped import folder

    recipes = {path.stem: path for path in sorted(folder("recipes").glob("*.yaml"))}
    if args.action == "list":
        wide = max(map(len, recipes))
        for name, path in recipes.items():
            print(f"{name:<{wide}}  {_purpose(path)}")
        return 0
    return _copy(recipes, args.name, Path(args.folder))


def _copy(recipes: dict[str, Path], name: str | None, target: Path) -> int:
    from launcher.errors import EnvironmentProblem
    from launcher.suggest import did_you_mean

    if name not in recipes:
        raise EnvironmentProblem(
            f"no recipe {name!r}{did_you_mean(str(name), list(recipes))}", fix="see `launcher recipes`"
        )
    for path in [recipes[name], *_needs(recipes[name])]:
        destination = target / path.relative_to(recipes[name].parent)
        if destination.exists():
            if path == recipes[name]:
                raise EnvironmentProblem("is there already", where=str(destination), fix="copy into another folder")
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, destination)
        print(destination)
    return 0


def _needs(recipe: Path) -> list[Path]:
    """Files and folders beside the recipe that it names, and those of the recipe that it extends."""
    import yaml

    named = [recipe.parent / text for text in _strings(yaml.safe_load(recipe.read_text(encoding="utf-8")))]
    found = [path for path in named if path.exists() and path != recipe.parent]
    return found + [more for path in found if path.suffix == ".yaml" for more in _needs(path)]


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) and value and "\n" not in value and len(value) < 200 else []


def _purpose(path: Path) -> str:
    comments = (
        line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    )
    return next((line for line in comments if line and not line.startswith("yaml-language-server")), "")
