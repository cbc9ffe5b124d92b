"""A vocabulary over two and four processes: each gets the loss and the gradients that one process would have."""

import multiprocessing
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import FP32, FP64, Outcome, assert_equal, draw, head, run
from launcher_kernels import VocabShard, choice, cross_entropy, linear_cross_entropy, reference
from launcher_kernels.output import EXTRAS

VOCABULARY, NUM_ROWS = 1003, 8
SIZES = {2: [402, 601], 4: [1, 500, 250, 252]}
PARTS = ("weight", "bias", "lora_b", "logits")
CASES: dict[str, dict[str, Any]] = {
    "chunk": {"method": "chunk", "returns": EXTRAS},
    "recompute": {"method": "recompute", "returns": EXTRAS},
    "stream": {"method": "stream", "returns": EXTRAS},
    "logits": {"returns": EXTRAS},
    "chunk, smoothed": {"method": "chunk", "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 2.0},
    "recompute, smoothed": {"method": "recompute", "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 2.0},
    "stream, smoothed": {"method": "stream", "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 2.0},
    "logits, smoothed": {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 2.0},
    "chunk, weighted": {"method": "chunk", "label_smoothing": 0.1, "class_weight": draw(VOCABULARY).detach().abs()},
    "stream, weighted": {"method": "stream", "label_smoothing": 0.1, "class_weight": draw(VOCABULARY).detach().abs()},
    "chunk, every row": {"method": "chunk", "reduction": "none"},
    "stream, every row": {"method": "stream", "reduction": "none"},
    "chunk, ties": {"method": "chunk", "returns": ("argmax", "correct")},
    "stream, ties": {"method": "stream", "returns": ("argmax", "correct")},
    "chunk, all targets in the last part": {"method": "chunk"},
    "recompute, all targets in the last part": {"method": "recompute"},
    "stream, all targets in the last part": {"method": "stream"},
    "chunk, fp32": {"method": "chunk"},
}


def inputs(name: str, world: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Of the whole vocabulary. Targets are the first and last class of parts, unless all are in the last part."""
    tensors = head(NUM_ROWS, 6, VOCABULARY, torch.float32 if "fp32" in name else torch.float64, with_lora=True)
    if name.startswith("stream"):
        tensors = {key: t.requires_grad_(key in ("x", "lora_a")) for key, t in tensors.items()}
    if name.startswith("logits"):
        tensors = {"logits": draw(NUM_ROWS, VOCABULARY)}
    if "ties" in name:
        tensors = {key: torch.zeros_like(t, requires_grad=t.requires_grad) for key, t in tensors.items()}
    first = [0, *accumulate(SIZES[world])]
    target = torch.tensor(([0, *first[1:-1], *(i - 1 for i in first[1:])] * 4)[:NUM_ROWS])
    if "last part" in name:
        target = torch.arange(first[-2], first[-2] + NUM_ROWS)
    target[3] = -100
    return tensors, target


def outcome(function: Any, name: str, world: int, part: slice = slice(None), **how: Any) -> Outcome:
    tensors, target = inputs(name, world)
    local = {key: t.detach() for key, t in tensors.items()}
    local |= {key: t[:, part] if key == "logits" else t[part] for key, t in local.items() if key in PARTS}
    local = {key: t.requires_grad_(tensors[key].requires_grad) for key, t in local.items()}
    options = CASES[name] | how
    upstream = draw(NUM_ROWS, seed=3).detach() if options.get("reduction") == "none" else 0.5
    return run(function, local, target, upstream, **options)


def rank_main(rank: int, world: int, folder: str) -> None:
    """One process. Pieces are small, and as large as the memory for them allows for so many classes."""
    torch.set_num_threads(1)
    choice.CPU_BYTES, choice.CPU_ROWS, choice.LEAST_COLUMNS, choice.SLICE_BYTES = 2**14, 1, 200, {"cpu": 0}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    start = sum(SIZES[world][:rank])
    part = slice(start, start + SIZES[world][rank])
    shard = VocabShard.of(torch.empty(SIZES[world][rank], 6), dist.group.WORLD)
    assert (shard.start, shard.total) == (start, VOCABULARY)
    found = {}
    for name in CASES:
        function = cross_entropy if name.startswith("logits") else linear_cross_entropy
        found[name] = tuple(outcome(function, name, world, part, vocab_shard=shard))
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """{world: what each rank found}, made once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launcher_kernels", "torch.distributed"])
    found = {}
    for world in SIZES:
        folder = tmp_path_factory.mktemp(f"world{world}")
        ranks = [context.Process(target=rank_main, args=(rank, world, str(folder))) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
        codes = [process.exitcode for process in ranks]
        for process in ranks:
            process.kill()
        assert codes == [0] * world
        found[world] = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("world", SIZES)
def test_as_in_one_process(name, world, outcomes):
    plain = reference.cross_entropy if name.startswith("logits") else reference.linear_cross_entropy
    truth = outcome(plain, name, world)
    start = 0
    for size, found in zip(SIZES[world], outcomes[world], strict=True):
        part = slice(start, start + size)
        local = {
            key: g if g is None or key not in PARTS else g[:, part] if key == "logits" else g[part]
            for key, g in truth.gradients.items()
        }
        assert_equal(Outcome(*found[name]), truth._replace(gradients=local), FP32 if "fp32" in name else FP64)
        start += size


@pytest.mark.parametrize("world", SIZES)
def test_all_processes_get_the_same_bits(world, outcomes):
    for name in CASES:
        losses = [Outcome(*found[name]).result.loss for found in outcomes[world]]
        assert all(torch.equal(loss, losses[0]) for loss in losses)
