"""Three hundred steps of a tiny Llama: the fused loss trains as the plain one does, in one batch or in eight parts of it."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from gpu_cases import DRY_RUN
from launcher_kernels import linear_cross_entropy
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.gpu
STEPS, LEAST_STEPS, SECONDS = (12, 4, 60.0) if DRY_RUN else (300, 60, 24.0)
VOCABULARY, HIDDEN, ROWS, LENGTH = (503, 32, 8, 32) if DRY_RUN else (32000, 512, 8, 256)
WORDS, FOLLOWERS = 256, 4  # a language of few words, each with four that may follow
SEEDS = (0, 1, 2)
RANK, SCALE, LEARNING_RATE = 16, 2.0, 2e-3
SAME = 1e-3


@dataclass(frozen=True)
class Run:
    """`parts`: into how many backward passes a batch is divided."""

    method: str
    fused: bool
    seed: int
    parts: int = 1


class Lora(nn.Module):
    """A frozen linear layer and an update of low rank."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + SCALE * functional.linear(functional.linear(x, self.a), self.b)


def tiny_llama(run: Run, device: torch.device) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(run.seed)
    shape = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=8, **shape)).float()
    if run.method == "lora":
        model.requires_grad_(False)
        for layer in model.model.layers:
            layer.self_attn.q_proj, layer.self_attn.v_proj = (
                Lora(layer.self_attn.q_proj),
                Lora(layer.self_attn.v_proj),
            )
        model.lm_head = Lora(model.lm_head)
    return model.to(device)


def text(seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Tokens, and labels of which each row ignores a part of another length: (steps, rows, length)."""
    chance = torch.Generator().manual_seed(1000 + seed)
    language = torch.Generator().manual_seed(7)
    words = torch.randperm(VOCABULARY, generator=language)[:WORDS]
    follows = torch.randint(WORDS, (WORDS, FOLLOWERS), generator=language)
    row = [torch.randint(WORDS, (steps * ROWS,), generator=chance)]
    for _ in range(LENGTH):
        row.append(follows[row[-1], torch.randint(FOLLOWERS, (steps * ROWS,), generator=chance)])
    tokens = words[torch.stack(row, 1)]
    ignored = torch.randint(3 * LENGTH // 4, (steps * ROWS, 1), generator=chance)
    target = tokens[:, 1:].masked_fill(torch.arange(LENGTH) < ignored, -100)
    return tokens[:, :-1].view(steps, ROWS, LENGTH), target.view(steps, ROWS, LENGTH)


def loss_of(model: nn.Module, tokens: Tensor, target: Tensor, count: int, num_items: int, fused: bool) -> Tensor:
    """Summed over these `count` targets, divided by those of the whole batch."""
    x = model.model(input_ids=tokens, use_cache=False).last_hidden_state.to(torch.bfloat16)
    if not fused:
        return (
            functional.cross_entropy(model.lm_head(x).flatten(0, 1).float(), target.flatten(), reduction="sum")
            / num_items
        )
    head, lora = model.lm_head, None
    if isinstance(head, Lora):
        head, lora = head.base, (head.a, head.b, SCALE)
    return linear_cross_entropy(x, head.weight, target, lora=lora, num_items=num_items, n_valid=count).loss


def losses_of(run: Run, model: nn.Module, device: torch.device, steps: int) -> Iterator[Tensor]:
    """Train, and give the batch's loss at each step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], LEARNING_RATE, fused=True)
    all_tokens, all_targets = text(run.seed, steps)
    counts = (all_targets != -100).sum(2).tolist()
    for tokens, target, count in zip(all_tokens.to(device), all_targets.to(device), counts, strict=True):
        total = torch.zeros((), device=device)
        size = ROWS // run.parts
        for first in range(0, ROWS, size):
            rows = slice(first, first + size)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = loss_of(model, tokens[rows], target[rows], sum(count[rows]), sum(count), run.fused)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        yield total


def train(run: Run, device: torch.device, steps: int) -> tuple[float, list[float]]:
    """The loss on text that nobody was trained with, by the plain loss; and the loss of each step."""
    model = tiny_llama(run, device)
    losses = list(losses_of(run, model, device, steps))
    tokens, target = (part[0].to(device) for part in text(99, 1))
    count = int((target != -100).sum())
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        final = float(loss_of(model, tokens, target, count, count, fused=False))
    return final, torch.stack(losses).tolist()


def affordable_steps(method: str, device: torch.device, cost: int) -> int:
    """As many as fit into the time, at most `STEPS`; `cost`: how many runs of one backward pass a step are planned."""

    def seconds(steps: int) -> float:
        start = time.monotonic()
        train(Run(method, fused=True, seed=5), device, steps)
        return time.monotonic() - start

    seconds(2)  # compiles
    each = max(1e-4, (seconds(12) - seconds(2)) / 10)
    if (steps := min(STEPS, int(SECONDS / each / cost))) < LEAST_STEPS:
        pytest.skip(f"{each:.2f} s a step: fewer than {LEAST_STEPS} steps fit into {SECONDS:.0f} s")
    return steps


def near(a: list[float], b: list[float]) -> Callable[[float], bool]:
    return lambda tolerance: all(abs(x - y) <= tolerance * abs(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_trains_like_the_plain_loss(method, device):
    """Different seeds differ by more than the two losses do, and a divided batch is the same batch."""
    pytest.importorskip("transformers")
    steps = affordable_steps(method, device, cost=2 * len(SEEDS) + ROWS)
    found: dict[bool, list[tuple[float, list[float]]]] = {}
    for fused in (False, True):
        found[fused] = [train(Run(method, fused, seed), device, steps) for seed in SEEDS]
    plain, ours = ([final for final, _ in found[fused]] for fused in (False, True))
    noise = statistics.stdev(plain)
    said: Any = {"steps": steps, "plain": plain, "fused": ours, "noise": noise}
    assert found[True][0][1][-1] < found[True][0][1][0], said
    assert abs(statistics.mean(ours) - statistics.mean(plain)) <= 2 * noise, said

    whole = Run(method, fused=True, seed=SEEDS[0])
    divided, its_losses = train(replace(whole, parts=ROWS), device, steps)
    said["divided"] = divided
    assert near(its_losses[:10], found[True][0][1][:10])(SAME), (its_losses[:10], found[True][0][1][:10])
    assert abs(divided - ours[0]) <= max(SAME * ours[0], 2 * noise), said
