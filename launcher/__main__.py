"""argv -> verb. A first word that is a recipe means `train`. Heavy imports wait until a verb needs them."""

import argparse
import ast
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

from launcher import parts
from launcher.errors import LauncherError, RecipeError, exit_code_of
from launcher.suggest import did_you_mean

RECIPE_SUFFIXES = (".yaml", ".yml")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; a LauncherError is printed as what it says, without a traceback. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        verb, words = _verb(words)
        if verb is None:
            _overview().print_help()
            return 0
        module = parts.load("verbs", _file(verb))
        return module.run(_parser(verb, module).parse_intermixed_args(words))
    except KeyboardInterrupt:
        _report("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except LauncherError as error:
        _report(str(error))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _report(f"{type(error).__name__}: {error}")
        return exit_code_of(error)


def _verb(words: list[str]) -> tuple[str | None, list[str]]:
    """The verb and the words behind it; a first word that is a recipe file means `train`."""
    if not words or words[0] in ("-h", "--help"):
        return None, []
    if words[0] in _verbs():
        return words[0], words[1:]
    if words[0].startswith("-") or words[0].endswith(RECIPE_SUFFIXES) or os.path.lexists(words[0]):
        return "train", words
    hint = did_you_mean(words[0], _verbs()).replace("mean", "mean the verb")
    raise RecipeError(f"neither a verb nor a recipe file{hint}", where=words[0], fix="see `launcher --help`")


def _parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"launcher {verb}", description=module.__doc__, formatter_class=formatter)
    module.add_arguments(parser)
    return parser


def _overview() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {verb:<11} {_first_line(_file(verb))}" for verb in _verbs())
    return argparse.ArgumentParser(
        prog="launcher",
        usage="launcher RECIPE [key.path=value ...] [--nproc N] [--resume auto]\n       launcher VERB ...",
        description=f"Fine-tune a model from a recipe.\n\nverbs:\n{lines}",
        epilog="`launcher VERB --help` tells the rest. A first word that is a recipe means `train`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _verbs() -> list[str]:
    """As they are typed: verify_math.py is `verify-math`."""
    return [name.replace("_", "-") for name in parts.names("verbs")]


def _file(verb: str) -> str:
    return verb.replace("-", "_")


def _first_line(name: str) -> str:
    """A verb's help text, read without importing it."""
    path = Path(__file__).parent / "verbs" / f"{name}.py"
    doc = (
        ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if path.exists()
        else parts.load("verbs", name).__doc__
    )
    return (doc or "").splitlines()[0]


def _report(message: str) -> None:
    """Say it once a machine, and leave it where torchrun looks, so that its own summary shows it."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"launcher: {message}", file=sys.stderr, flush=True)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        record = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": record}))


def console() -> None:
    """Entry point of the `launcher` script."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    console()
