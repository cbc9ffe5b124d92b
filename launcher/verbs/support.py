"""Print which combinations of choices train, which are refused and why, and which need hardware (SUPPORT.md)."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace) -> int:
    from launcher import support_table

    print(support_table.page(), end="")
    return 0
