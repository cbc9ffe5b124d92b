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

from launcher import parts
from launcher.errors import LauncherError, exit_code_of

RECIPE_SUFFIXES = (".yaml", ".yml")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; a LauncherError is printed as what it says, without a traceback. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in parts.names("verbs"):
        words.insert(0, "train")
    parser = _parser(words[0] if words else "")
    options = parser.parse_intermixed_args(words[1:] if words and words[0] in parts.names("verbs") else words)
    if not words or words[0] not in parts.names("verbs"):
        parser.print_help()
        return 0 if not words else 2
    try:
        return parts.load("verbs", words[0]).run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except LauncherError as error:
        _report(str(error))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _report(f"{type(error).__name__}: {error}")
        return exit_code_of(error)


def _parser(verb: str) -> argparse.ArgumentParser:
    if verb in parts.names("verbs"):
        module = parts.load("verbs", verb)
        parser = argparse.ArgumentParser(
            prog=f"launcher {verb}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(parser)
        return parser
    lines = [f"  {name:<10} {_first_line(name)}" for name in parts.names("verbs")]
    usage = "launcher RECIPE [key.path=value ...] [--nproc N] [--resume auto]\n       launcher VERB ..."
    return argparse.ArgumentParser(
        prog="launcher",
        usage=usage,
        description="Fine-tune a model from a recipe.\n\nverbs:\n" + "\n".join(lines),
        epilog="`launcher VERB --help` tells the rest. A first word that is a recipe means `train`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _first_line(verb: str) -> str:
    """A verb's help text, read without importing it."""
    path = Path(__file__).parent / "verbs" / f"{verb}.py"
    doc = (
        ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if path.exists()
        else parts.load("verbs", verb).__doc__
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
