"""What can go wrong, said so that a person can act on it: what happened, where, and what to do.

Each kind has the exit code that `launcher` ends with; `__main__` prints the message without a traceback.
"""

import errno


def printable(text: str) -> str:
    """With an escape for each half character, as in names of files that are not UTF-8: neither screens nor files take one."""
    return text.encode(errors="backslashreplace").decode()


class LauncherError(Exception):
    """A problem that is the user's to solve. `where` is a `file:line:column`, a file and row, or a folder."""

    exit_code = 1

    def __init__(self, problem: str, *, where: str = "", fix: str = ""):
        self.problem, self.where, self.fix = problem, where, fix
        super().__init__(printable(f"{where}{': ' if where else ''}{problem}{'; ' if fix else ''}{fix}"))


class Preempted(LauncherError):
    """The run was asked to stop, has saved, and can be resumed."""

    exit_code = 85


class Interrupted(LauncherError):
    """A person pressed Ctrl-C; the run has saved and can be resumed."""

    exit_code = 130


class HangError(LauncherError):
    """Another rank is lost, or has not answered in time."""

    exit_code = 86


class NonFiniteError(LauncherError):
    """A loss or gradient is NaN or infinite; the weights were not touched by it."""

    exit_code = 87


class CheckpointError(LauncherError):
    """No usable checkpoint, or an export that does not equal the trained model."""

    exit_code = 88


class RecipeError(LauncherError):
    exit_code = 89


class RecipeErrors(RecipeError):
    """All problems of one recipe, each already located (`file:line:column key: problem`)."""

    def __init__(self, problems: list[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class DataError(LauncherError):
    """A row or file of data that cannot be used; `where` holds the file and the row number."""

    exit_code = 89


class EnvironmentProblem(LauncherError):
    exit_code = 89


class StorageError(LauncherError):
    """The disk is full or refuses to be written to."""

    exit_code = 90


class OutOfMemoryProblem(LauncherError):
    exit_code = 91


class NoProgress(LauncherError):
    exit_code = 92


class UnequalMath(LauncherError):
    """The loss or the gradients of a step depend on how its batch is cut or on who computes it."""

    exit_code = 93


def exit_code_of(error: BaseException) -> int:
    """The exit code for any exception, ours or not."""
    if isinstance(error, LauncherError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return OutOfMemoryProblem.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError.exit_code
    return 1
