"""A tiny causal model, its tokenizer and data, and ways to run the launcher on them in this process or in several."""

import json
import multiprocessing
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What every run imports: once for all ranks that are forked from one server.
PRELOAD = [
    "launcher.story",
    "launcher.restore",
    "launcher.report",
    "transformers.models.llama.modeling_llama",
    "peft",
]
WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "sees",
    "likes",
    "chases",
    "house",
    "tree",
    "river",
    "and",
    "or",
    "when",
    "because",
    "quickly",
    "slowly",
]
CHAT_TEMPLATE = (
    "{%- for m in messages -%}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|> {% endif -%}"
)
RECIPE = """\
task: causal_lm
method: lora
model: {name_or_path: model}
adapter: {r: 4, lora_alpha: 8}
data:
  train: [{path: train.jsonl}]
  eval: [{path: eval.jsonl}]
  max_length: 64
training: {global_batch_size: 4, per_device_train_batch_size: 1, max_steps: 6, max_grad_norm: 0.1}
optimizer: {learning_rate: 1.0e-2, weight_decay: 0.1}
scheduler: {name: cosine, warmup_steps: 2}
evaluation: {max_new_tokens: 4}
export: {verify: false}
logging: {logging_steps: 1, trackers: [jsonl]}
"""


def make(folder: Path, **shape: Any) -> Path:
    """Write model/, train.jsonl, eval.jsonl and tiny.yaml; returns the recipe. The same bytes every time."""
    save_tokenizer(folder / "model")
    save_model(folder / "model", **shape)
    chance = random.Random(0)
    for name, number in (("train", 22), ("eval", 5)):
        rows = [json.dumps({"messages": _conversation(chance)}) for _ in range(number)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder / "tiny.yaml"


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unk|>"]
    vocabulary = {token: i for i, token in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=special[2:4],
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def save_model(folder: Path, **changes: Any) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64}
    config = LlamaConfig(
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **shape | changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def train(recipe: Path, *words: str) -> int:
    """`launcher train RECIPE words...` in this process; the exit code."""
    from launcher.__main__ import main

    return main(["train", str(recipe), *words])


def losses(folder: Path, name: str = "train/loss") -> dict[int, float]:
    """step -> value from metrics.jsonl; the last line of a step counts."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def wait_for_step(folder: Path, step: int, seconds: float = 60) -> None:
    """Until a run that another process trains has logged a step."""
    deadline = time.monotonic() + seconds
    while not ((folder / "metrics.jsonl").exists() and max(losses(folder), default=0) >= step):
        assert time.monotonic() < deadline, f"{folder} has not come to step {step}"
        time.sleep(0.01)


@contextmanager
def full_disk(file_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes; the disk refuses, as one that is full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def launch_on_full_disk(file_bytes: int, words: list[str]) -> int:
    """`launcher WORDS` in this process; its exit code."""
    with full_disk(file_bytes):
        return launch(words)


class Ranks:
    """`world` processes that each run the launcher as one rank; forked from a server that has imported torch once."""

    def __init__(self, world: int, words: list[str], log: Path):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        port = free_port()
        self.processes = [
            context.Process(target=_rank, args=(rank, world, port, words, str(log))) for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Exit codes by rank."""
        for process in self.processes:
            process.join(seconds)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes


def _rank(rank: int, world: int, port: int, words: list[str], log: str) -> None:
    with open(log, "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    set_rank(rank, world, port)
    sys.exit(launch(words))


def set_rank(rank: int, world: int, port: int) -> None:
    """The environment of a rank, as torchrun makes it; that of a single process is left without."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        os.environ.pop(name, None)
    if world > 1:
        values = (rank, rank, world, world, "127.0.0.1", port)
        os.environ |= dict(zip(names, map(str, values), strict=True))


def launch(words: list[str]) -> int:
    """`launcher WORDS` in this process; its exit code."""
    from launcher.__main__ import main

    return main(words)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _conversation(chance: random.Random) -> list[dict[str, str]]:
    turns = []
    for _ in range(chance.randint(1, 3)):
        for role in ("user", "assistant"):
            turns.append({"role": role, "content": " ".join(chance.choices(WORDS, k=chance.randint(1, 7)))})
    return turns
