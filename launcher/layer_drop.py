"""LayerDrop (Fan et al., arXiv:1909.11556): some models skip whole layers by chance while they train."""

from typing import Any

from launcher import log


def switch_off(model: Any) -> None:
    """No layer is skipped, and a line says so where one would have been.

    A rank that skips a layer has no gradient for it while the others wait for one.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    owners = [base.config, *base.modules()]
    found = {
        name: value
        for owner in owners
        for name, value in vars(owner).items()
        if name.endswith("layerdrop") and isinstance(value, float) and value > 0
    }
    for owner in owners:
        for name in found.keys() & vars(owner).keys():
            setattr(owner, name, 0.0)
    if found:
        said = ", ".join(f"{name} {value:g}" for name, value in found.items())
        log.say(f"note: no layer is skipped while training ({said} of the model's configuration does not count)")
