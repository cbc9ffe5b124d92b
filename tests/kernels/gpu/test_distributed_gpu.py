"""On several GPUs: a vocabulary in parts, and a head that FSDP2 or ZeRO-3 keeps in parts. Each process runs all cases of a test."""

import math
import os
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gpu_cases import DRY_RUN, FP32, distance, draw, head, labels, run
from launcher_kernels import VocabShard, linear_cross_entropy
from torch import Tensor, nn

pytestmark = pytest.mark.gpu
VOCABULARY = 1003
METHODS = ("chunk", "recompute", "stream")
LIMIT = 1e-5


def in_processes(work: Any, world: int, *words: Any) -> None:
    """`work(rank, device, *words)` in `world` processes, one GPU each; gloo on a CPU in a dry run."""
    if not DRY_RUN and (count := torch.cuda.device_count()) < world:
        pytest.skip(f"needs {world} GPUs, found {count}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (world, port, work, words), nprocs=world)


def _process(rank: int, world: int, port: int, work: Any, words: tuple) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ["LOCAL_RANK"] = str(rank)
    device = torch.device("cpu") if DRY_RUN else torch.device("cuda", rank)
    if DRY_RUN:
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if DRY_RUN else "nccl", device_id=None if DRY_RUN else device)
    work(rank, device, *words)
    dist.destroy_process_group()


# --- a vocabulary in parts ---


def bounds(world: int) -> list[int]:
    """Where the uneven parts begin and end."""
    return [0, *(VOCABULARY * (2 * i + 1) // (2 * world + 1) for i in range(1, world)), VOCABULARY]


def shard_targets(name: str, device: torch.device, cuts: list[int]) -> Tensor:
    target = labels(64, VOCABULARY, device, ignored=0.2)
    if name == "last part only":
        return torch.where(target >= 0, cuts[-2] + target % (VOCABULARY - cuts[-2]), target)
    if name == "first and last class of each part":
        edges = torch.tensor([cut - i for cut in cuts[1:-1] for i in (0, 1)] + [0, VOCABULARY - 1], device=device)
        return edges[torch.arange(64, device=device) % len(edges)]
    return target


CASES = [
    {},
    {"label_smoothing": 0.1, "z_loss": 1e-3},
    {"softcap": 5.0, "scale": 0.7, "reduction": "sum"},
    {"reduction": "none"},
    {"num_items": 7, "label_smoothing": 0.9},
]


def check_shards(rank: int, device: torch.device) -> None:
    cuts = bounds(dist.get_world_size())
    part = slice(cuts[rank], cuts[rank + 1])
    tensors = head((64, 32, VOCABULARY), device, torch.float32)
    tensors |= {
        "a": draw((4, 32), device, torch.float32, seed=7),
        "b": draw((VOCABULARY, 4), device, torch.float32, seed=8),
    }
    mine = {name: tensor[part] if len(tensor) == VOCABULARY else tensor for name, tensor in tensors.items()}
    shard = VocabShard.of(mine["weight"], dist.group.WORLD)
    assert (shard.start, shard.total) == (part.start, VOCABULARY)
    for method in METHODS:
        frozen = ("weight", "bias", "b") if method == "stream" else ()
        for name in ("anywhere", "last part only", "first and last class of each part"):
            target = shard_targets(name, device, cuts)
            for options in CASES:
                how = {"frozen": frozen, "method": method, "n_valid": int((target != -100).sum())} | options
                whole, ours = (
                    run(with_lora, tensors, target, **how),
                    run(with_lora, mine, target, vocab_shard=shard, **how),
                )
                compare_parts(whole, ours, part, f"{method}, {name}, {options}")


def with_lora(x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, target: Tensor, **options: Any) -> Any:
    return linear_cross_entropy(x, weight, target, bias=bias, lora=(a, b, 0.5), **options)


def compare_parts(whole: Any, ours: Any, part: slice, name: str) -> None:
    """The loss and gradients of what is not in parts are those of one process; the others are its rows of them."""
    assert distance(ours.loss, whole.loss) <= FP32, name
    assert set(ours.gradients) == set(whole.gradients)
    for tensor, gradient in ours.gradients.items():
        expected = whole.gradients[tensor]
        expected = expected[part] if len(expected) == VOCABULARY else expected
        assert distance(gradient, expected) <= 2 * FP32, (name, tensor)


def check_ties(rank: int, device: torch.device) -> None:
    """Of equal logits in different parts the first class counts."""
    cuts = bounds(dist.get_world_size())
    x, weight = torch.ones(6, 4, device=device), torch.ones(VOCABULARY, 4, device=device)
    target = torch.tensor([0, 0, cuts[1], cuts[-2], 5, -100], device=device)
    shard = VocabShard.of(weight[cuts[rank] : cuts[rank + 1]], dist.group.WORLD)
    found = linear_cross_entropy(
        x, weight[cuts[rank] : cuts[rank + 1]], target, vocab_shard=shard, returns=("correct", "argmax", "entropy")
    )
    assert int(found.correct) == 2 and found.argmax.tolist() == [0, 0, 0, 0, 0, -1]
    torch.testing.assert_close(found.entropy[:5], torch.full((5,), math.log(VOCABULARY), device=device))


@pytest.mark.parametrize("world", [2, 4])
def test_a_vocabulary_in_parts(world, device):
    in_processes(_check_vocabulary, world)


def _check_vocabulary(rank: int, device: torch.device) -> None:
    check_shards(rank, device)
    check_ties(rank, device)


# --- a head in parts ---


class Trained(nn.Module):
    """A causal model with its loss inside what wraps it, so that the head is whole where the loss is taken."""

    def __init__(self, trains_head: bool, gathered: Any = None):
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=503, num_key_value_heads=4, **shape)).float()
        self.model.lm_head.weight.requires_grad_(trains_head)
        self.gathered = gathered

    def forward(self, ids: Tensor) -> Tensor:
        """Of these positions only; the caller divides by those of all processes."""
        x = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        if self.gathered is None:
            return self._loss(x, ids)
        with self.gathered([self.model.lm_head.weight]):
            return self._loss(x, ids)

    def _loss(self, x: Tensor, ids: Tensor) -> Tensor:
        return linear_cross_entropy(x, self.model.lm_head.weight, ids, shift=1, reduction="sum").loss / 100


def tokens(rank: int, device: torch.device) -> Tensor:
    return labels(3 * 24, 503, device).roll(rank).view(3, 24)


def by_ddp(rank: int, device: torch.device, trains_head: bool) -> dict[str, Tensor]:
    model = Trained(trains_head).to(device)
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped(tokens(rank, device)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare_gradients(found: dict[str, Tensor | None], expected: dict[str, Tensor], trains_head: bool) -> None:
    assert ("model.lm_head.weight" in expected) == trains_head
    for name, gradient in found.items():
        assert (gradient is not None) == (name in expected), name
        assert gradient is None or distance(gradient, expected[name]) <= LIMIT, name


def _check_fsdp(rank: int, device: torch.device, trains_head: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Trained(trains_head).to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model(tokens(rank, device)).backward()
    found = {name: None if p.grad is None else p.grad.full_tensor() for name, p in model.named_parameters()}
    compare_gradients(found, by_ddp(rank, device, trains_head), trains_head)


@pytest.mark.parametrize("trains_head", [True, False], ids=["trained", "frozen"])
def test_a_head_in_parts_by_fsdp(trains_head, device):
    pytest.importorskip("transformers")
    in_processes(_check_fsdp, 2, trains_head)


def _check_zero(rank: int, device: torch.device, trains_head: bool) -> None:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    expected = by_ddp(rank, device, trains_head)
    model = Trained(trains_head, deepspeed.zero.GatheredParameters)
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.0)
    config = {"train_micro_batch_size_per_gpu": 3, "zero_optimization": zero, "zero_allow_untested_optimizer": True}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    engine.backward(engine(tokens(rank, device)))
    found = {n: safe_get_full_grad(p) if p.requires_grad else None for n, p in engine.module.named_parameters()}
    compare_gradients(found, expected, trains_head)


@pytest.mark.parametrize("trains_head", [True, False], ids=["trained", "frozen"])
def test_a_head_in_parts_by_zero(trains_head, device):
    pytest.importorskip("transformers")
    pytest.importorskip("deepspeed")
    in_processes(_check_zero, 2, trains_head)
