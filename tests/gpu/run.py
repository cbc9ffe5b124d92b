"""All that is measured on a GPU, in one go and in minutes: the kernels' tests, their speed, and whole training steps.

    python tests/gpu/run.py FOLDER                          # one CUDA GPU
    python tests/gpu/run.py --device cpu --smoke FOLDER     # tries the same code, tiny, on a CPU; its numbers mean nothing

It takes the Python it is started with as it is, and installs nothing: torch, triton and pytest are needed, transformers and
PEFT for the training; what else is missing is named in the file, and its part left out. FOLDER/<gpu>-<date>.json is written
after every measurement. A part that is over its time is stopped, what it has measured stays. Exit codes: 0, 1 if a test or a
part failed, 2 if nothing can be measured here.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from machine import missing, versions
from result_file import ResultFile, read_json
from settings import lines_in
from watch import ROOT, Ending, exit_on_sigterm, last_line, watch

HERE = Path(__file__).parent
SHARES = {"tests": 0.34, "kernels": 0.27, "training": 1.0}  # of all time; a part never gets more than is left
PART_ENDS_EARLIER_SECONDS = 5  # a part that keeps its time by itself is given less than what it is stopped at
SECONDS_TO_CLOSE = 10
NO_TESTS = 5  # pytest's exit code
LONGEST_TEST_SECONDS = 60  # where pytest-timeout is there
LONGEST_OUTPUT = 8000  # characters of a failed part
START = time.monotonic()


class Campaign:
    """The result file, the scratch folder and the clock of one campaign on a machine."""

    def __init__(self, args: argparse.Namespace, results: ResultFile, gpu: str | None, scratch: Path):
        self.args, self.results, self.gpu, self.scratch = args, results, gpu, scratch
        self.seconds, self.failed = args.minutes * 60 - SECONDS_TO_CLOSE, False

    def seconds_for(self, part: str) -> float:
        left = START + self.seconds - time.monotonic()
        return max(1.0, min(SHARES[part] * self.seconds, left))

    def close(self, part: str, ending: Ending, failed: bool) -> None:
        """Say how a part ended, in the file and on the terminal, and show what it said where something is wrong."""
        self.failed |= failed
        if ending.problem and (failed or ending.over_time):
            self.results.skip(f"{part} as a whole", {part: ending.problem})
        if failed:
            print(ending.said[-LONGEST_OUTPUT:], file=sys.stderr)
        print(f"{part}: {ending.problem or 'done'}, {ending.seconds:.0f} s", flush=True)


# --- the parts, most important first ---


def tests(campaign: Campaign) -> None:
    """`pytest -m gpu tests/kernels`, a line for each test as it ends."""
    lines = campaign.scratch / "tests.jsonl"

    def look() -> bool:
        campaign.results.put(tests=counted(lines_in(lines)))
        return False

    options = ["-m", "gpu", "tests/kernels", "-p", "report_lines", "--continue-on-collection-errors"]
    options += ["--tb=short", "-rs", "-o", f"timeout={LONGEST_TEST_SECONDS}"]
    environment = {"GPU_TEST_LINES": str(lines), "PYTHONPATH": path_with(HERE)}
    command = [sys.executable, "-m", "pytest", *options]
    ending = watch(command, campaign.seconds_for("tests"), look, environment, grace_seconds=3)
    none_on_cpu = campaign.args.smoke and ending.code == NO_TESTS
    campaign.close("tests", ending, failed=ending.failed and not none_on_cpu)


def counted(lines: list[dict]) -> dict:
    outcomes = Counter(line["outcome"] for line in lines)
    return {
        **{name: outcomes[name] for name in ("passed", "failed", "skipped")},
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "failures": {line["test"]: line["reason"] for line in lines if line["outcome"] == "failed"},
        "reasons_to_skip": dict(Counter(line["reason"] for line in lines if line["outcome"] == "skipped")),
    }


def kernels(campaign: Campaign) -> None:
    preset = "smoke" if campaign.args.smoke else "gpu"
    measured(campaign, "kernels", ROOT / "kernels" / "bench.py", ["--preset", preset])


def training(campaign: Campaign) -> None:
    words = ["--smoke"] if campaign.args.smoke else []
    measured(campaign, "training", HERE / "train_bench.py", words + (["--gpu", campaign.gpu] if campaign.gpu else []))


def measured(campaign: Campaign, part: str, program: Path, words: list[str]) -> None:
    """A program that keeps its time and writes what it has measured to a file as it goes."""
    file, seconds = campaign.scratch / f"{part}.json", campaign.seconds_for(part)
    own_seconds = max(1.0, seconds - PART_ENDS_EARLIER_SECONDS)

    def look() -> bool:
        content = read_json(file)
        campaign.results.skip(part, content.pop("skipped", {}))
        campaign.results.put(**{part: content})
        return False

    common = ["--device", campaign.args.device, "--seconds", f"{own_seconds:.0f}", "--json", file]
    ending = watch([sys.executable, program, *words, *common], seconds, look, {}, grace_seconds=5)
    campaign.close(part, ending, failed=ending.failed)


PARTS: dict[str, Callable[[Campaign], None]] = {"tests": tests, "kernels": kernels, "training": training}


# --- before the parts ---


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the result file goes")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: tries the code, measures nothing")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


def obstacle(args: argparse.Namespace) -> str | None:
    """Why nothing can be measured with this Python on this machine, and what to do."""
    if absent := missing("torch", "triton", "pytest"):
        return f"{absent} for this Python; name one that has them: make gpu PYTHON=/path/to/python3"
    if args.device == "cpu" and not args.smoke:
        return "--device cpu only tries the code: add --smoke"
    return None


def describe_machine() -> dict:
    """Asked in a process of its own, which gives the GPU's memory back."""
    done = subprocess.run([sys.executable, HERE / "machine.py"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"torch cannot be asked for the GPU: {last_line(done.stderr)}")
    return json.loads(last_line(done.stdout))


def no_gpu(machine: dict) -> str:
    built = f"torch is built for CUDA {machine['cuda']}" if machine["cuda"] else "this torch is built without CUDA"
    return (
        f"no CUDA GPU can be used here ({built}). Run this on a machine with an NVIDIA GPU, its driver and a CUDA build of "
        "torch. To try the code without one: python tests/gpu/run.py --device cpu --smoke FOLDER"
    )


def path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def prepare_environment(device: str) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def main() -> int:
    args = arguments()
    prepare_environment(args.device)
    exit_on_sigterm()
    if problem := obstacle(args):
        print(problem, file=sys.stderr)
        return 2
    machine = describe_machine()
    if args.device == "cuda" and machine["gpu"] is None:
        print(no_gpu(machine), file=sys.stderr)
        return 2
    return measure(args, machine)


def measure(args: argparse.Namespace, machine: dict) -> int:
    try:
        results = ResultFile(args.folder, machine["gpu"] or "cpu", datetime.date.today().isoformat())
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    results.put(machine=machine, versions=versions(), smoke=args.smoke)
    with tempfile.TemporaryDirectory() as scratch:
        campaign = Campaign(args, results, machine["gpu"], Path(scratch))
        for part in args.parts:
            PARTS[part](campaign)
    print(as_text(results))
    return 1 if campaign.failed else 0


def as_text(results: ResultFile) -> str:
    """What was left out, and the training as a table of Markdown."""
    left_out = [f"left out: {name}: {reason}" for name, reason in results.content["skipped"].items()]
    head = ["| training | tokens/s | MFU | peak memory, GiB | first and last loss |", "| --- | --- | --- | --- | --- |"]
    rows = [row_of(run) for run in results.content["training"].get("runs", [])]
    return "\n".join([*left_out, *(head + rows if rows else []), f"results: {results.path}"])


def row_of(run: dict) -> str:
    speed = f"{run['tokens_per_second']:,.0f}" if run["tokens_per_second"] else "-"
    mfu = f"{run['mfu']:.1%}" if run["mfu"] else "-"
    name = f"{run['shape']} {run['method']} {run['loss']}, {run['provider']}"
    return (
        f"| {name} | {speed} | {mfu} | {run['peak_memory_gib']:.2f} | {run['losses'][0]:.4f} {run['losses'][-1]:.4f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
