"""What a model draws by chance while it trains: dropout and its relatives, known by the names that transformers gives their
probabilities."""

from fnmatch import fnmatch
from typing import Any

from launcher import log
from launcher.errors import RecipeError
from launcher.recipe import Recipe
from launcher.suggest import did_you_mean

MASKS = ("mask_time_prob", "mask_feature_prob")  # SpecAugment (Park et al., arXiv:1904.08779)


def of(owner: Any) -> dict[str, float]:
    """Name -> probability above zero of a module, or of a configuration."""
    return {
        name: value
        for name, value in vars(owner).items()
        if isinstance(value, float) and value > 0 and _is_probability(owner, name)
    }


def overrides(config: Any, recipe: Recipe) -> dict[str, float]:
    """Field of a model's configuration -> the probability that `regularization.dropout` gives it. One for all means no residual
    branches that are dropped whole (drop_path); layers that are, nothing means: see `switch_off_layer_drop`.

    Raises RecipeError for a model without such fields, and for a pattern that means none.
    """
    asked = recipe.regularization.dropout
    if asked is None:
        return {}
    fields = [name for name in config.to_dict() if "drop" in name and "layer" not in name]
    found: dict[str, float] = {}
    for pattern, probability in (asked if isinstance(asked, dict) else {"*": asked}).items():
        named = [name for name in fields if fnmatch(name, pattern) and (isinstance(asked, dict) or "path" not in name)]
        if not named:
            has = f"it has {', '.join(fields)}{did_you_mean(pattern, fields)}" if fields else "it has no dropout"
            raise RecipeError(
                f"regularization.dropout: {pattern} is no dropout of a {config.model_type} model; {has}",
                where=recipe.origin("regularization.dropout"),
            )
        found |= dict.fromkeys(named, probability)
    return found


def is_in(model: Any) -> bool:
    """Whether the modules draw anything. Of the configuration only masks count: models leave other probabilities unused."""
    return any(of(module) for module in model.modules()) or any(getattr(model.config, name, 0) for name in MASKS)


def switch_off(model: Any, *others: Any) -> None:
    """Every probability becomes zero, whoever reads it: the modules, the configuration, `others`."""
    for owner in (*model.modules(), model.config, *others):
        for name in of(owner):
            setattr(owner, name, 0.0)


def switch_off_layer_drop(model: Any) -> None:
    """No layer is skipped whole (LayerDrop: Fan et al., arXiv:1909.11556), and a line says so where one would have been.

    A rank that skips a layer has no gradient for it while the others wait for one.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = {}
    for owner in (*base.modules(), base.config):
        for name, value in of(owner).items():
            if name.endswith("layerdrop"):
                found[name] = value
                setattr(owner, name, 0.0)
    if found:
        said = ", ".join(f"{name}: {value:g}" for name, value in found.items())
        log.say(f"note: no layer is skipped while training; the model's {said} does not count")


def _is_probability(owner: Any, name: str) -> bool:
    return "drop" in name or "jitter" in name or name in MASKS or (name == "p" and "Dropout" in type(owner).__name__)
