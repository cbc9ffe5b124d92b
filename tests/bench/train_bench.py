"""How fast a step is, and how much memory it takes: a bare loop, transformers.Trainer, TRL and the launcher.

    python tests/bench/train_bench.py --rounds 3

Each provider (see providers.py) trains in a process of its own, in rounds that take turns. A step is one optimizer
step; the first steps of every process are left out of its speed. Peak memory is the high-water mark of resident memory
at the end of the last step. Losses are compared step by step: whoever is fast by computing something else is seen.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from providers import PROVIDERS, Settings, make_material

NEEDS = {"Trainer": "transformers", "TRL SFTTrainer": "trl"}
PROVIDER = Path(__file__).with_name("providers.py")
LIBRARIES = ("torch", "transformers", "accelerate", "trl")


def run_once(name: str, material: Path, s: Settings) -> dict | None:
    """The result of one provider in a process of its own, or None when it failed."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for shared in ("model", "train.jsonl"):
            (work / shared).symlink_to(material / shared)
        environment = os.environ | {"OMP_NUM_THREADS": str(s.threads), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(PROVIDER), name, str(work), json.dumps(dataclasses.asdict(s))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{name} failed:\n{(done.stdout + done.stderr)[-2000:]}", file=sys.stderr)
            return None
        return json.loads((work / "result.json").read_text())


def summary(runs: list[dict], s: Settings) -> dict:
    """Median of the steady steps of each round, then of the rounds; the slowest and fastest round beside it."""
    speeds = sorted(s.rows_per_step * s.tokens_per_row / steady_seconds(run["times"], s) for run in runs)
    return {
        "tokens_per_second": statistics.median(speeds),
        "slowest_round": speeds[0],
        "fastest_round": speeds[-1],
        "peak_memory_gib": statistics.median(run["peak_gib"] for run in runs),
        "losses": runs[0]["losses"][: s.steps],
    }


def steady_seconds(ends: list[float], s: Settings) -> float:
    """Median seconds of a step, from the times at which the steps ended."""
    return statistics.median(end - begin for begin, end in pairwise(ends[s.steps_left_out - 1 :]))


def table(results: dict[str, dict]) -> str:
    """`apart` is the largest relative difference of any step's loss from the first provider's."""
    first = next(iter(results.values()))["losses"]
    lines = [f"{'provider':<22}{'tokens/s':>10}{'rounds':>16}{'peak GiB':>10}{'last loss':>12}{'apart':>10}"]
    for name, r in results.items():
        apart = max(abs(loss / reference - 1) for loss, reference in zip(r["losses"], first, strict=True))
        rounds = f"{r['slowest_round']:,.0f} - {r['fastest_round']:,.0f}"
        speed, peak, last = r["tokens_per_second"], r["peak_memory_gib"], r["losses"][-1]
        lines.append(f"{name:<22}{speed:>10,.0f}{rounds:>16}{peak:>10.2f}{last:>12.6f}{apart:>10.0e}")
    return "\n".join(lines)


def machine(s: Settings) -> dict:
    installed = {name: version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    return {
        "settings": dataclasses.asdict(s),
        "precision": "fp32",
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "cpu": cpu(),
        "versions": installed,
    }


def cpu() -> str:
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return lines[0].partition(":")[2].strip() if lines else platform.machine()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--threads", type=int, default=Settings.threads)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS), metavar="NAME")
    parser.add_argument("--json", type=Path, help="write settings and numbers to this file as well")
    return parser.parse_args()


def installed(names: list[str]) -> list[str]:
    """The providers whose library is there; the others are named."""
    missing = [name for name in names if name in NEEDS and not importlib.util.find_spec(NEEDS[name])]
    for name in missing:
        print(f"{name}: skipped, {NEEDS[name]} is not installed")
    return [name for name in names if name not in missing]


def main() -> int:
    args = arguments()
    s = Settings(steps=args.steps, threads=args.threads, gradient_checkpointing=args.gradient_checkpointing)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: s.threads])  # inherited: a thread has a core, and no more
    print(json.dumps(machine(s), indent=1), flush=True)
    names = installed(args.providers)
    runs: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as material:
        make_material(Path(material), s)
        for number in range(args.rounds):
            first = number % len(
                names
            )  # another one begins each round, so that no one always runs on the coolest machine
            for name in names[first:] + names[:first]:
                if (result := run_once(name, Path(material), s)) is not None:
                    runs[name].append(result)
    results = {name: summary(done, s) for name, done in runs.items() if done}
    print(table(results) if results else "no provider finished")
    if args.json:
        args.json.write_text(json.dumps(machine(s) | {"rounds": args.rounds, "results": results}, indent=1))
    return 0 if all(len(done) == args.rounds for done in runs.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
