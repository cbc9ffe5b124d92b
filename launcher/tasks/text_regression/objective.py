"""The loss of a number for a text."""

from launcher.objectives.regression import Objective, build, plan_loss

__all__ = ["Objective", "build", "plan_loss"]
