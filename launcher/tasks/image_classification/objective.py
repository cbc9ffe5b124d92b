"""The loss of a label for a picture."""

from typing import Any

from launcher.data.context import Context
from launcher.objectives import classification
from launcher.objectives.classification import Objective
from launcher.objectives.mixing import Mixing
from launcher.task import LossPlan
from launcher.tasks.image_classification import Config


def plan_loss(model: Any, options: Config, method: str) -> LossPlan:
    plain, found = classification.plan_loss(model, options, method), mixing(options)
    alphas = (("Mixup", found.mixup_alpha), ("CutMix", found.cutmix_alpha))
    words = [f", {name} with alpha {alpha:g}" for name, alpha in alphas if alpha]
    return plain._replace(name=plain.name + "".join(words), mixes_rows=bool(found))


def build(model: Any, options: Config, context: Context) -> Objective:
    return classification.build(model, options, context, mixing=mixing(options))


def mixing(options: Config) -> Mixing:
    return Mixing(options.mixup_alpha, options.cutmix_alpha)
