"""The loss of a label for a picture."""

from launcher.objectives.classification import Objective, build, plan_loss

__all__ = ["Objective", "build", "plan_loss"]
