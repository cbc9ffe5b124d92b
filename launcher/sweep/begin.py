"""The start of a sweep, new or resumed: its folder and its study are made or joined under one lock."""

from launcher import log
from launcher.errors import LauncherError, StorageError
from launcher.recipe import Recipe
from launcher.recipe.searching import greater_is_better
from launcher.sweep import place
from launcher.sweep.place import Place
from launcher.sweep.store import Store


def opened(recipe: Recipe, resume: str | None) -> tuple[Place, Store]:
    """The sweep's folder and its storage, ready for trials to be taken. Raises RecipeError where another sweep is in the way."""
    assert recipe.sweep is not None
    folder = place.folder_of(recipe, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "set output_dir to a folder that can be made"
        raise StorageError(f"the sweep's folder: {error.strerror}", where=str(folder), fix=fix) from error
    store = Store(recipe.sweep.storage, folder)
    with store.locked():
        was_there = (folder / place.CARD).is_file()
        here = place.settle(folder, recipe)
        try:
            is_new = store.open(here, greater_is_better(recipe))
        except LauncherError:
            if not was_there:
                (folder / place.CARD).unlink()
            raise
    log.say(f"sweep {here.study} {'begins' if is_new else 'goes on'} in {folder}")
    return here, store
