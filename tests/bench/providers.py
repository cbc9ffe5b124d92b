"""The same training written four ways: by hand, for transformers.Trainer, for TRL, and as a recipe.

All get the same weights, the same token rows in the same order, and the same batch, precision and optimizer. Run as a
program (`providers.py NAME WORK SETTINGS`) it trains once and leaves result.json in WORK, which holds the material.
"""

import dataclasses
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every provider is given. The vocabulary is large against the width, as in the small models of today."""

    hidden_size: int = 256
    num_layers: int = 4
    vocab_size: int = 32_000
    rows_per_step: int = 4
    tokens_per_row: int = 512
    steps: int = 12
    steps_left_out: int = 3
    learning_rate: float = 5e-4
    max_grad_norm: float = 1.0
    threads: int = 2
    gradient_checkpointing: bool = False
    packing: bool = False
    seed: int = 0


def make_material(work: Path, s: Settings) -> None:
    save_model(work / "model", s)
    save_tokenizer(work / "model", s.vocab_size)
    write_rows(work / "train.jsonl", s)


def save_model(folder: Path, s: Settings) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(s.seed)
    config = LlamaConfig(
        hidden_size=s.hidden_size,
        intermediate_size=4 * s.hidden_size,
        num_hidden_layers=s.num_layers,
        num_attention_heads=s.hidden_size // 64,
        num_key_value_heads=s.hidden_size // 64,
        vocab_size=s.vocab_size,
        max_position_embeddings=s.tokens_per_row,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word(i): i for i in range(vocab_size)}, unk_token=word(0)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token=word(0), eos_token=word(1)).save_pretrained(folder)


def write_rows(path: Path, s: Settings) -> None:
    """Frequencies as in language, 1 / rank, so that there is something to learn; each row ends the text."""
    import numpy as np

    chances = 1 / np.arange(1, s.vocab_size - 1)
    draw = np.random.default_rng(s.seed)
    shape = (s.steps * s.rows_per_step, s.tokens_per_row - 1)
    rows = 2 + draw.choice(s.vocab_size - 2, size=shape, p=chances / chances.sum())
    with path.open("w") as file:
        for row in rows.tolist():
            file.write(json.dumps({"text": " ".join(map(word, [*row, 1]))}) + "\n")


def word(token: int) -> str:
    return ("<pad>", "<end>")[token] if token < 2 else f"w{token}"


def token_rows(work: Path, s: Settings) -> list[list[int]]:
    """The rows in the launcher's order, which is a pure function of the seed; the other providers follow it."""
    import numpy as np

    sys.path.insert(0, str(ROOT))
    from launcher.data.order import Order, Source

    texts = [json.loads(line)["text"] for line in (work / "train.jsonl").open()]
    tokens = {word(i): i for i in range(s.vocab_size)}
    ids = [[tokens[each] for each in text.split()] for text in texts]
    capacity = s.tokens_per_row if s.packing else None
    order = Order(
        np.array([len(row) for row in ids]), (Source(np.arange(len(ids))),), s.seed, s.rows_per_step, capacity
    )
    steps = (order.micro_batches(step, s.rows_per_step, 1)[0] for step in range(s.steps))
    return [ids[int(unit[0])] for units in steps for unit in units]


class Clock:
    """Notes the time, the loss and the peak of resident memory at the end of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []
        self.peak_gib = 0.0

    def tick(self) -> None:
        self.times.append(time.perf_counter())
        status = Path("/proc/self/status").read_text()
        self.peak_gib = int(status.split("VmHWM:")[1].split()[0]) / 2**20


def load_model(work: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)


# --- providers, each (folder, settings) -> Clock ---


def bare_loop(work: Path, s: Settings) -> Clock:
    """What a careful person writes by hand with PyTorch and transformers."""
    import torch

    model, clock = load_model(work).train(), Clock()
    if s.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.learning_rate, weight_decay=0.0, fused=True)
    rows = torch.tensor(token_rows(work, s))
    for batch in torch.utils.data.DataLoader(rows, batch_size=s.rows_per_step):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        clock.losses.append(loss.item())
        clock.tick()
    return clock


def trainer_arguments(work: Path, s: Settings) -> dict:
    """The one set of arguments of Trainer and SFTTrainer, where neither's own default already is what all use."""
    return {
        "output_dir": str(work / "out"),
        "max_steps": s.steps,
        "per_device_train_batch_size": s.rows_per_step,
        "learning_rate": s.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": s.max_grad_norm,
        "optim": "adamw_torch_fused",
        "bf16": False,
        "gradient_checkpointing": s.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if s.gradient_checkpointing else None,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": s.seed,
    }


def observed(trainer, clock: Clock) -> Clock:
    from transformers import TrainerCallback

    class Observer(TrainerCallback):
        def on_step_end(self, *_, **__):
            clock.tick()

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    trainer.add_callback(Observer())
    trainer.train()
    return clock


def hf_trainer(work: Path, s: Settings) -> Clock:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments, default_data_collator  # noqa: TID251  (the peer that is measured)

    rows = token_rows(work, s)
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    arguments = TrainingArguments(**trainer_arguments(work, s))
    trainer = Trainer(load_model(work), arguments, train_dataset=data, data_collator=default_data_collator)
    return observed(trainer, Clock())


def trl_trainer(work: Path, s: Settings) -> Clock:
    """TRL with the loss that it recommends, which goes through the head in chunks."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict({"input_ids": token_rows(work, s)})
    arguments = SFTConfig(**trainer_arguments(work, s), max_length=s.tokens_per_row, packing=False)
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    return observed(SFTTrainer(load_model(work), arguments, train_dataset=data, processing_class=tokenizer), Clock())


def launcher_run(work: Path, s: Settings, loss: str) -> Clock:
    """`python -m launcher` on a recipe, as a user starts it; all numbers come from the run's metrics.jsonl."""
    recipe = {
        "task": "causal_lm",
        "method": "full",
        "seed": s.seed,
        "output_dir": str(work / "run"),
        "model": {"name_or_path": str(work / "model")},
        "data": {
            "train": [{"path": str(work / "train.jsonl"), "format": "text"}],
            "max_length": s.tokens_per_row,
            "cache_dir": str(work / "cache"),
        },
        "training": {
            "max_steps": s.steps,
            "global_batch_size": s.rows_per_step,
            "per_device_train_batch_size": s.rows_per_step,
            "precision": "fp32",
            "gradient_checkpointing": s.gradient_checkpointing,
            "max_grad_norm": s.max_grad_norm,
        },
        "loss": {"implementation": loss},
        "optimizer": {"name": "adamw", "learning_rate": s.learning_rate, "weight_decay": 0.0},
        "scheduler": {"name": "constant"},
        "logging": {"logging_steps": 1, "trackers": ["jsonl"]},
    }
    (work / "bench.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    subprocess.run([sys.executable, "-m", "launcher", str(work / "bench.yaml")], cwd=ROOT, check=True)
    clock = Clock()
    for line in map(json.loads, (work / "run" / "metrics.jsonl").open()):
        if "train/loss" in line:
            clock.times.append(line["time"])
            clock.losses.append(line["train/loss"])
            clock.peak_gib = line["train/peak_memory_gib"]
    return clock


PROVIDERS = {
    "bare loop": bare_loop,
    "Trainer": hf_trainer,
    "TRL SFTTrainer": trl_trainer,
    "launcher": partial(launcher_run, loss="fused"),
    "launcher, plain loss": partial(launcher_run, loss="torch"),
}


if __name__ == "__main__":
    name, work, settings = sys.argv[1], Path(sys.argv[2]), Settings(**json.loads(sys.argv[3]))
    (work / "result.json").write_text(json.dumps(vars(PROVIDERS[name](work, settings))))
