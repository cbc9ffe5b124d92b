"""Makes run folders that look like real ones, for the tests of what reads them."""

import json
import math
import random
import socket
from pathlib import Path
from typing import Any

BEGAN = 1_772_460_300.0  # 2026-03-02 14:05 UTC
STEPS = 300
TOKENS_PER_STEP = 4096

RECIPE = """\
schema_version: 1
name: gpt_lora
task: causal_lm
method: lora
seed: 42
model:
  name_or_path: assets/tiny-gpt
  dtype: auto
adapter: {r: 16, lora_alpha: 32, target_modules: all-linear}
data:
  train:
    - path: data/train.jsonl
      format: messages
  eval:
    - path: data/eval.jsonl
      format: messages
  max_length: 1024
training:
  num_train_epochs: 3
  global_batch_size: 16
optimizer: {name: adamw, learning_rate: 2.0e-4, betas: [0.9, 0.999]}
scheduler: {name: cosine, warmup_steps: 0.05, min_lr_ratio: 0.1}
evaluation: {eval_steps: 50, metrics: [loss, perplexity, token_accuracy, token_f1], metric_for_best_model: eval/loss}
"""

SAMPLES = [
    {
        "prompt": "Which planet of the solar system has the shortest day?",
        "reference": "Jupiter: it turns once in a little under ten hours.",
        "base": "The planet The planet the day the planet of the shortest of the planet",
        "tuned": "Jupiter has the shortest day: one turn takes just under ten hours.",
    },
    {
        "prompt": "Show the page <script>alert('x')</script> & say \"hello\".",
        "reference": None,
        "base": "</div><img src=x onerror=alert(1)>",
        "tuned": "Hello! I read that <script> as text.\n\n1. It is not run.\n2. It is shown.",
    },
    {
        "prompt": "Write a haiku about gradient descent.",
        "reference": "Down the slope we go\none small step, then another\nthe valley is near",
        "base": "",
        "tuned": "Steps along the slope\neach one smaller than the last\nrest where it is flat",
    },
    {"prompt": "ما هو أكبر محيط؟", "reference": "المحيط الهادئ", "base": "؟", "tuned": "المحيط الهادئ هو الأكبر."},
]

PLAN = {
    "values": {
        "world_size": {"value": 2, "origin": "environment: 1 node x 2 processes"},
        "global_batch_size": {"value": 16, "origin": "recipes/gpt_lora.yaml:19:22"},
        "per_device_train_batch_size": {"value": 2, "origin": "default"},
        "gradient_accumulation_steps": {"value": 4, "origin": "computed: 16 / (2 per device x 2 processes)"},
        "total_steps": {"value": STEPS, "origin": "computed: 3 epochs x 1600 rows / 16"},
        "learning_rate": {"value": 2e-4, "origin": "command line"},
        "loss": {"value": "fused", "origin": "computed: vocabulary of 50257 and a float32 head"},
        "lora_targets": {
            "value": [f"model.layers.{i}.attn.{p}" for i in range(8) for p in "qkvo"],
            "origin": "computed",
        },
        "exactness": {"value": "exact on any number of ranks", "origin": "computed: no dropout"},
    }
}

ENVIRONMENT = {
    "versions": {
        "python": "3.12.3",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "accelerate": "1.15.0",
        "peft": "0.21.2",
    },
    "hardware": {
        "host": "node-07",
        "cpu": "AMD EPYC 9654",
        "cores": 96,
        "memory_gib": 755.4,
        "gpus": ["H200 141 GB"] * 2,
    },
    "world": {"nodes": 1, "processes": 2},
    "commit": "3f2a9c17d0b84e55a1c0",
    "data": [
        {"path": "data/train.jsonl", "rows": 1600, "digest": "xxh128:9c1f7a40"},
        {"path": "data/eval.jsonl", "rows": 200, "digest": "xxh128:17bd02ee"},
    ],
    "model": {"name_or_path": "assets/tiny-gpt", "digest": "xxh128:5ab0cc12"},
    "command": ["accelerate", "launch", "-m", "launcher", "recipes/gpt_lora.yaml", "optimizer.learning_rate=2e-4"],
}


def make_run(path: Path, **replaced: Any) -> Path:
    """Write a finished run that was preempted at step 160 and resumed from 150.

    `replaced` gives the content of a file by its stem, None to leave the file out, text to write it as it is.
    """
    contents: dict[str, Any] = {
        "metrics": metrics(),
        "attempts": attempts(),
        "plan": PLAN,
        "environment": ENVIRONMENT,
        "samples": SAMPLES,
        "recipe": RECIPE,
    }
    contents.update(replaced)  # "evaluation" among them, which a causal_lm run does not have
    path.mkdir(parents=True, exist_ok=True)
    for stem, content in contents.items():
        suffix = {"recipe": ".yaml", "metrics": ".jsonl", "attempts": ".jsonl"}.get(stem, ".json")
        if content is not None:
            (path / f"{stem}{suffix}").write_text(_as_text(content, suffix), encoding="utf-8")
    return path


def metrics(steps: int = STEPS, every: int = 2) -> list[dict[str, Any]]:
    """A noisy falling loss with one spike; steps 152 to 160 are there twice, as after a resume."""
    noise = random.Random(7)
    records = [_evaluation(0, steps)]
    for step in [*range(every, 161, every), *range(150 + every, steps + 1, every)]:
        records.append(_training(step, steps, noise))
        if step % 50 == 0:
            records.append(_evaluation(step, steps))
    return records


def attempts() -> list[dict[str, Any]]:
    shared = {"host": "node-07", "pid": 4711, "world": 2}
    return [
        start(1, first_step=0, **shared),
        {"attempt": 1, "event": "end", "time": BEGAN + 420, "last_step": 160, "exit_code": 85,
         "error": "stopped by SIGTERM, saved at step 150", **shared},
        start(2, first_step=150, time=BEGAN + 1800, **shared),
        {"attempt": 2, "event": "end", "time": BEGAN + 2210, "last_step": STEPS, "exit_code": 0, **shared},
    ]  # fmt: skip


def start(attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {"attempt": attempt, "event": "start", "time": BEGAN, "host": socket.gethostname(), "pid": 1} | fields


def end(attempt: int = 1, exit_code: int = 0, **fields: Any) -> dict[str, Any]:
    return {"attempt": attempt, "event": "end", "time": BEGAN + 60, "exit_code": exit_code, "error": None} | fields


def _loss(step: int, steps: int) -> float:
    return 1.9 + 2.3 * math.exp(-5 * step / steps)


def _training(step: int, steps: int, noise: random.Random) -> dict[str, Any]:
    warmup = 0.05 * steps
    decay = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    spike = 3.1 if step == 84 else 0.0
    return {
        **_position(step, steps),
        "train/loss": _loss(step, steps) + noise.gauss(0, 0.13) + spike,
        "train/learning_rate": 2e-4 * min(step / warmup, decay),
        "train/grad_norm": 0.6 + math.exp(-step / 40) + abs(noise.gauss(0, 0.12)) + 9 * spike,
        "train/tokens_per_second": 9800 + noise.gauss(0, 260) - (4200 if step in (2, 152) else 0),
        "train/peak_memory_gib": 11.2 + 0.9 * min(1, step / 12),
    }


def _evaluation(step: int, steps: int) -> dict[str, Any]:
    loss = _loss(step, steps) + 0.07 + 0.12 * (step / steps) ** 3
    return {
        **_position(step, steps),
        "eval/loss": loss,
        "eval/perplexity": math.exp(loss),
        "eval/token_accuracy": 0.71 - 0.12 * loss,
        "eval/token_f1": 0.83 - 0.17 * loss,
    }


def _position(step: int, steps: int) -> dict[str, Any]:
    time = BEGAN + 2.6 * step + (980 if step > 160 else 0)
    return {"step": step, "epoch": round(3 * step / steps, 3), "tokens": step * TOKENS_PER_STEP, "time": time}


def _as_text(content: Any, suffix: str) -> str:
    if isinstance(content, str):
        return content
    if suffix == ".jsonl":
        return "".join(json.dumps(record) + "\n" for record in content)
    return json.dumps(content, indent=2)
