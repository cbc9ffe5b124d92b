"""Tokens a second, MFU and memory of whole training steps on a GPU: the launcher, loops by hand, and TRL.

    python tests/gpu/train_bench.py --device cuda --seconds 240 --json FILE

Each run trains a model of a real shape with random weights on the same full rows of tokens, in bf16, for a few steps. The first
steps are left out of its speed, which is the median of the others. FILE is written after every step; what does not fit into the
seconds is named there. How MFU is counted, says shapes.py. Peak memory is what torch has given out at most (on a CPU:
resident memory).

The launcher runs as `python -m launcher recipe.yaml`, a process each, and is ended after its last step, before it saves. The
loops share a process. Losses of a method agree in the first step; later ones of LoRA differ between the launcher and the
loops, whose random adapters are others.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from machine import missing
from result_file import write_json
from settings import Run, Settings, lines_in, to_words
from shapes import SHAPES, config_of, flops_per_token, peak_tflops
from watch import Ending, exit_on_sigterm, watch

HERE = Path(__file__).parent
NEEDS = {  # modules that a provider cannot do without
    "launcher": ["transformers", "peft", "accelerate", "pydantic", "yaml", "jinja2", "xxhash"],
    "bare loop": ["transformers"],
    "bare loop + launcher_kernels": ["transformers"],
    "TRL SFTTrainer": ["trl", "datasets"],
}
LEAST_SECONDS = 15  # a process that has less does not get to its first step


@dataclass
class Bench:
    """What has been measured so far, and the time until when more may be."""

    settings: dict[str, Settings]
    gpu: str | None
    until: float
    file: Path
    skipped: dict[str, str]
    results: dict[str, dict]
    tried: bool = False

    def save(self) -> None:
        s = asdict(next(iter(self.settings.values())))
        s.pop("vocab_size")
        content = {"settings": s, "peak_tflops": peak_tflops(self.gpu), "runs": list(self.results.values())}
        write_json(self.file, content | {"skipped": self.skipped})

    def take(self, run: Run, steps: list[dict]) -> None:
        s = self.settings[run.shape]
        flops = flops_per_token(config_of(run.shape, s.small), run.method, s.tokens_per_row, s.lora_r)
        self.results[run.name] = asdict(run) | summary(steps, s, flops, peak_tflops(self.gpu))

    @property
    def seconds_left(self) -> float:
        return self.until - time.monotonic()


def summary(steps: list[dict], s: Settings, flops_per_token: float, peak: float | None) -> dict:
    """Median speed of the steady steps, and the slowest and the fastest of them."""
    ends = [step["time"] for step in steps][s.steps_left_out - 1 :]
    speeds = sorted(s.tokens_per_step / (end - begin) for begin, end in pairwise(ends)) or [None]
    speed = statistics.median(speeds) if speeds[0] else None
    return {
        "tokens_per_second": speed,
        "slowest": speeds[0],
        "fastest": speeds[-1],
        "mfu": round(speed * flops_per_token / (peak * 1e12), 4) if speed and peak else None,
        "peak_memory_gib": round(steps[-1]["peak_memory_gib"], 3) if steps else None,
        "losses": [step["loss"] for step in steps],
        "complete": len(steps) == s.steps,
    }


# --- what is run, in this order ---


def plan(smoke: bool) -> Iterator[list[Run]]:
    """Runs that share a process. First the shape with most at stake, and in it what tells most."""
    methods = ("lora", "full")
    trl_loss = "own" if smoke or missing("liger_kernel") else "liger"  # liger's kernels run on a GPU only
    for shape in SHAPES:
        loops = [("bare loop + launcher_kernels", "fused"), ("bare loop", "plain")]
        yield [Run(provider, shape, method, loss) for method in methods for provider, loss in loops]
        alone = [Run("launcher", shape, method, loss) for loss in ("fused", "plain") for method in methods]
        yield from ([run] for run in alone[: 1 if smoke else None])
        yield [Run("TRL SFTTrainer", shape, method, trl_loss) for method in methods]
        if smoke:
            return


def possible(runs: list[Run], bench: Bench) -> list[Run]:
    """The runs whose libraries are there; what is not is named."""
    kept = []
    for run in runs:
        if reason := missing(*NEEDS[run.provider]):
            bench.skipped[run.provider] = reason
        elif run.method == "lora" and (reason := missing("peft")):
            bench.skipped["training with LoRA"] = reason
        else:
            kept.append(run)
    return kept


def measure(runs: list[Run], folder: Path, bench: Bench) -> None:
    bench.tried = bench.tried or bench.seconds_left >= LEAST_SECONDS
    if bench.seconds_left < LEAST_SECONDS:
        bench.skipped |= {run.name: "no time left" for run in runs}
    elif runs[0].provider == "launcher":
        launcher(runs[0], folder, bench)
    else:
        loops(runs, folder, bench)
    bench.save()


def loops(runs: list[Run], folder: Path, bench: Bench) -> None:
    lines = folder / "lines.jsonl"
    lines.unlink(missing_ok=True)

    def look() -> bool:
        for number, run in enumerate(runs):
            own = [line for line in lines_in(lines) if line["run"] == number]
            if errors := [line["error"] for line in own if "error" in line]:
                bench.skipped[run.name] = errors[0]
            if steps := [line for line in own if "loss" in line]:
                bench.take(run, steps)
        bench.save()
        return False

    words = to_words(bench.settings[runs[0].shape], runs)
    ending = watch([sys.executable, HERE / "loops.py", folder, *words], bench.seconds_left, look)
    name_the_unfinished(runs, ending, bench)


def launcher(run: Run, folder: Path, bench: Bench) -> None:
    s = bench.settings[run.shape]
    output = folder / f"{run.method}-{run.loss}"
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(recipe_of(run, folder, output, s)))  # JSON is YAML

    def look() -> bool:
        steps = [step_of(line) for line in lines_in(output / "metrics.jsonl") if "train/loss" in line][: s.steps]
        if steps:
            bench.take(run, steps)
            bench.save()
        return len(steps) == s.steps

    environment = {"ACCELERATE_USE_CPU": "true"} if s.device == "cpu" else {}
    ending = watch([sys.executable, "-m", "launcher", recipe], bench.seconds_left, look, environment)
    name_the_unfinished([run], ending, bench)


def recipe_of(run: Run, folder: Path, output: Path, s: Settings) -> dict:
    lora = {"adapter": {"r": s.lora_r, "lora_alpha": s.lora_alpha}} if run.method == "lora" else {}
    return lora | {
        "task": "causal_lm",
        "method": run.method,
        "seed": s.seed,
        "output_dir": str(output),
        "model": {"name_or_path": str(folder / "model")},
        "data": {
            "train": [{"path": str(folder / "train.jsonl"), "format": "text"}],
            "max_length": s.tokens_per_row,
            "packing": s.packing,
            "cache_dir": str(folder / "cache"),
        },
        "training": {
            "max_steps": s.steps + 1,  # one more than is measured: it is ended before it saves
            "global_batch_size": s.rows_per_step,
            "per_device_train_batch_size": s.rows_per_step,
            "precision": "bf16",
            "gradient_checkpointing": s.gradient_checkpointing,
            "max_grad_norm": s.max_grad_norm,
        },
        "loss": {"implementation": "fused" if run.loss == "fused" else "torch"},
        "optimizer": {"name": "adamw", "learning_rate": s.learning_rate, "weight_decay": 0.0},
        "scheduler": {"name": "constant"},
        "logging": {"logging_steps": 1, "trackers": ["jsonl"]},
    }


def step_of(line: dict) -> dict:
    return {"time": line["time"], "loss": line["train/loss"], "peak_memory_gib": line["train/peak_memory_gib"]}


def name_the_unfinished(runs: list[Run], ending: Ending, bench: Bench) -> None:
    """Whoever has measured something keeps it, marked as incomplete; whoever has not is named with the reason."""
    for run in runs:
        if not bench.results.get(run.name, {}).get("complete") and ending.problem:
            bench.skipped.setdefault(run.name, ending.problem)
    if ending.failed:
        print(ending.said[-3000:], file=sys.stderr)


# --- the program ---


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--gpu", help="its name, for its peak speed")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--smoke", action="store_true", help="tiny models and a few runs, to try the code on a CPU")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    return parser.parse_args()


def settings_of(shape: str, args: argparse.Namespace) -> Settings:
    tiny = {"rows_per_step": 2, "tokens_per_row": 64, "steps": 3, "steps_left_out": 1} if args.smoke else {}
    return Settings(
        vocab_size=config_of(shape, args.smoke)["vocab_size"],
        device=args.device,
        small=args.smoke,
        gradient_checkpointing=args.gradient_checkpointing,
        **tiny,
    )


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    settings = {shape: settings_of(shape, args) for shape in SHAPES}
    bench = Bench(settings, args.gpu, time.monotonic() + args.seconds, args.json, {}, {})
    if reason := missing("liger_kernel"):
        bench.skipped["TRL SFTTrainer with liger-kernel"] = reason
    with tempfile.TemporaryDirectory() as scratch:
        for runs in plan(args.smoke):
            folder = Path(scratch) / runs[0].shape
            folder.mkdir(exist_ok=True)
            if runs := possible(runs, bench):
                measure(runs, folder, bench)
    bench.save()
    return 1 if bench.tried and not bench.results else 0


if __name__ == "__main__":
    sys.exit(main())
