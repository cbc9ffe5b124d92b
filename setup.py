"""Puts the recipes and the Slurm scripts into a wheel as data (launcher/_shipped); everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # launcher/shipped.py finds them in the checkout
        for name in ("recipes", "slurm"):
            target = Path(self.build_lib) / "launcher" / "_shipped" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))


setup(cmdclass={"build_py": BuildWithRecipes})
