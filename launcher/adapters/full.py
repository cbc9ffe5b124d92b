"""Full fine-tuning: every parameter of the base model is trained."""

from typing import Any

from launcher.section import Section


class Config(Section):
    """Full fine-tuning has no options of its own."""


def apply(model: Any, config: Config) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def merge(model: Any) -> Any:
    return model
