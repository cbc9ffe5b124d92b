"""Speed, memory and error of fused cross-entropy, ours beside others', in one process.

    python kernels/bench.py --preset gpu --json results.json --plot time_and_memory.svg --markdown
    python kernels/bench.py --preset cpu --seconds 0            # all of it, however long it takes
    python kernels/bench.py --from results.json --markdown      # shows what was measured earlier

The file of --json is written anew after every case. What was not reached in time, is not installed or cannot run here is
in it by name. MEANING says what each number is.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The profiler, which counts a CPU's allocations, would tell of every start.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from bench_cases import PRESETS, Case, Inputs, Preset, make
from bench_exact import Exact, exact
from bench_measure import Clock, Deadline, OutOfTime
from bench_providers import LINEAR, LOGITS, Provider, versions
from bench_race import Comparison, attempt
from bench_report import markdown, plot

MEANING = {
    "forward_backward_ms": "loss and its gradients; percentiles over rounds, in each of which every provider runs once",
    "forward_ms": "the loss alone, under no_grad",
    "time_ratio": "median over rounds of the time divided by unfused's time in the same round",
    "processor_time_ratio": "the same of the processor time of all threads; only on a CPU",
    "tflops": "6 N H V / p50 (4 N H V unless the head is trained), N the rows that are not ignored: useful work, whatever was done",
    "gb_per_s": "logits read once and written once / p50",
    "extra_bytes": "highest allocation during forward and backward, less the returned gradients; inputs not counted",
    "error": "relative, of the loss and (Frobenius norm) of each gradient, from fp64 on the same input values; "
    "of logits, the first 256 rows of the gradient; where error_rows is set, in a call with so many rows",
    "first_call_s": "forward and backward with compilation and tuning; an earlier case may have compiled it already",
    "data": "random: x ~ N(0, 1), weight ~ N(0, 1 / H), a flat softmax. peaked: half of the targets have p > 1/2",
}
X_ROWS_OF_LOGITS = 256


class Bench:
    """One run: what is asked for, and the report that grows."""

    def __init__(self, preset: Preset, device: str, deadline: Deadline, path: Path | None = None, cold: bool = False):
        self.preset, self.deadline, self.path = preset, deadline, path
        self.device, self.clock = device, Clock(device, cold)
        self.words: list[str] = []  # of providers' names; none takes all
        self.truth: tuple[Case | None, Exact | None] = (None, None)
        self.report: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(device),
            "versions": {"python": platform.python_version(), **versions()},
            "cold_l2": cold,
            "seconds": deadline.seconds,
            "out_of_time": False,
            "meaning": MEANING,
            "cases": [],
            "skipped": {case.name: "no time left" for case in preset.cases},
        }

    def run(self) -> dict[str, Any]:
        try:
            with self.deadline.alarm():
                for case in self.preset.cases:
                    self.measure(case)
        except OutOfTime:
            self.report["out_of_time"] = True
        self.save()
        return self.report

    def measure(self, case: Case) -> None:
        self.deadline.check()
        entry: dict[str, Any] = {"name": case.name, **asdict(case), "complete": False, "providers": {}}
        self.report["cases"].append(entry)
        del self.report["skipped"][case.name]
        prepared = attempt(entry, lambda: self.prepare(case))
        if prepared is not None:
            inputs, truth = prepared
            entry |= {"counted_rows": inputs.num_valid, "median_target_probability": truth.median_probability}
            comparison = (case, inputs, truth, self.preset, self.clock, self.deadline, entry["providers"])
            Comparison(*comparison).compare(self.providers(case))
            entry |= {"sm_clock_mhz": sm_clock(self.device), "complete": True}
        print(f"{case.name}: {'measured' if prepared else entry['failed']}", flush=True)
        self.save()

    def prepare(self, case: Case) -> tuple[Inputs, Exact]:
        """Gradients in fp64 serve the next case as well if only the head's freezing differs."""
        inputs = make(case, self.device)
        same = replace(case, head="frozen" if case.head == "trained" else case.head, compiled=False)
        if self.truth[0] != same:
            self.truth = (None, None)  # gives its memory back first
            some = inputs.first(case.error_rows) if case.error_rows else inputs
            self.truth = (same, exact(some, None if case.hidden else X_ROWS_OF_LOGITS))
        return inputs, self.truth[1]

    def providers(self, case: Case) -> list[Provider]:
        every = LINEAR if case.hidden else LOGITS
        return [p for p in every if not self.words or any(word.lower() in p.name.lower() for word in self.words)]

    def save(self) -> None:
        """Whoever reads the file finds a whole one."""
        if self.path is not None:
            unfinished = self.path.with_name(self.path.name + ".unfinished")
            unfinished.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
            os.replace(unfinished, self.path)


def machine(device: str) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    found = {"device": device, "cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    found["load_at_start"] = round(os.getloadavg()[0], 2)
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "gpu_gib": round(gpu.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return found


def sm_clock(device: str) -> int | None:
    try:
        return torch.cuda.clock_rate() if device == "cuda" else None
    except Exception:  # it needs NVML for Python
        return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=PRESETS, help="default: the device's")
    parser.add_argument("--seconds", type=float, help="budget for everything, 0 for none; default: the preset's")
    parser.add_argument(
        "--providers", nargs="+", default=[], metavar="WORD", help="only those whose names contain one of these"
    )
    parser.add_argument(
        "--cases", nargs="+", default=[], metavar="WORD", help="only those whose names contain all of these"
    )
    parser.add_argument("--threads", type=int, help="of the CPU; default: PyTorch's")
    parser.add_argument("--cold-l2", action="store_true", help="empty the GPU's L2 cache before every call")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="SVG of time against memory")
    parser.add_argument("--markdown", action="store_true", help="print tables")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="FILE", help="show these results, measure nothing")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.threads:
        torch.set_num_threads(args.threads)
    preset = PRESETS[args.preset or ("gpu" if args.device == "cuda" else "cpu")]
    cases = [case for case in preset.cases if all(word in case.name for word in args.cases)]
    if args.providers:
        cases = [replace(case, compiled=True) for case in cases]
    names = [provider.name.lower() for provider in (*LINEAR, *LOGITS)]
    if not cases or not all(any(word.lower() in name for name in names) for word in args.providers):
        sys.exit(f"no case of this preset, or no provider, is called so; providers: {', '.join(names)}")
    if absent := [file for file in (args.json, args.plot) if file is not None and not file.absolute().parent.is_dir()]:
        sys.exit(f"{absent[0]}: there is no such folder")
    preset = replace(preset, cases=cases)
    seconds = preset.seconds if args.seconds is None else args.seconds
    bench = Bench(preset, args.device, Deadline(seconds), args.json, args.cold_l2)
    bench.words = args.providers
    return bench.run()


def main() -> None:
    args = arguments()
    report = json.loads(args.earlier.read_text(encoding="utf-8")) if args.earlier else measure(args)
    if args.plot:
        args.plot.write_text(plot(report), encoding="utf-8")
    if args.markdown or not (args.json or args.plot):
        print(markdown(report))


if __name__ == "__main__":
    main()
