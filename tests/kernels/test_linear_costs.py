"""What the fused loss may cost: matrix products, and memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from cases import classes, head
from launcher_kernels import linear_cross_entropy, methods

NUM_ROWS, HIDDEN, VOCABULARY, CHUNKS, SLICES = 12, 6, 29, 3, 4


@pytest.fixture
def products(monkeypatch, small_pieces) -> Counter:
    """How many matrix products there were, by what they are for."""
    counts: Counter = Counter()

    def counted(function):
        def call(*args, out, **options):
            if out.shape[1] != HIDDEN:
                counts["logits"] += 1
            else:
                counts["x" if out.shape[0] in (NUM_ROWS, NUM_ROWS // CHUNKS) else "weight"] += 1
            return function(*args, out=out, **options)

        return call

    monkeypatch.setattr(torch, "mm", counted(torch.mm))
    monkeypatch.setattr(torch, "addmm", counted(torch.addmm))
    return counts


def loss_of(tensors, method="auto", **options):
    return linear_cross_entropy(**tensors, target=classes(NUM_ROWS, VOCABULARY), method=method, **options).loss


@pytest.mark.parametrize(
    ("method", "frozen", "expected"),
    [
        ("chunk", (), {"logits": CHUNKS, "x": CHUNKS, "weight": CHUNKS}),
        ("chunk", ("weight",), {"logits": CHUNKS, "x": CHUNKS}),
        ("chunk", ("x",), {"logits": CHUNKS, "weight": CHUNKS}),
        ("recompute", (), {"logits": 2 * SLICES, "x": SLICES, "weight": SLICES}),
        ("recompute", ("weight", "bias"), {"logits": 2 * SLICES, "x": SLICES}),
        ("stream", ("weight", "bias"), {"logits": SLICES, "x": SLICES}),
    ],
)
def test_no_product_is_made_for_what_is_frozen(method, frozen, expected, products):
    tensors = head(NUM_ROWS, HIDDEN)
    for name in frozen:
        tensors[name].requires_grad_(False)
    loss = loss_of(tensors, method)
    loss.backward()
    assert products == expected
    assert [name for name, t in tensors.items() if t.grad is None] == list(frozen)


@pytest.mark.parametrize(("method", "expected"), [("chunk", CHUNKS), ("recompute", SLICES), ("stream", SLICES)])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_makes_logits_only(method, expected, mode, products):
    tensors = head(NUM_ROWS, HIDDEN)
    if method == "stream":
        tensors = {name: t.requires_grad_(name == "x") for name, t in tensors.items()}
    with mode():
        assert not loss_of(tensors, method).requires_grad
    assert products == {"logits": expected}


def test_rows_that_do_not_count_are_left_out_of_the_products(products):
    """Two chunks are enough for the 8 rows that count of 12."""
    linear_cross_entropy(**head(NUM_ROWS, HIDDEN), target=classes(NUM_ROWS, VOCABULARY, ignored=[0, 4, 5, 11]))
    assert products == {"logits": 2, "x": 2, "weight": 2}


def test_a_loss_of_every_row_is_made_again_for_a_trained_head_only(products):
    """What is summed over rows has to know the gradient from above first."""
    tensors = head(NUM_ROWS, HIDDEN)
    loss_of(tensors, reduction="none").sum().backward()
    assert products == {"logits": 2 * CHUNKS, "x": CHUNKS, "weight": CHUNKS}
    products.clear()
    loss_of(
        {name: t.detach().requires_grad_(name == "x") for name, t in tensors.items()}, reduction="none"
    ).sum().backward()
    assert products == {"logits": CHUNKS, "x": CHUNKS}


LIMITED = """
import json, resource
import torch
from launcher_kernels import cross_entropy, linear_cross_entropy, reference
torch.set_num_threads(1)
MiB = 2**20

def fits(loss_of, extra):
    loss_of(warm_up=True).backward()  # libraries and threads take their memory now
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra * MiB, unlimited[1]))
    try:
        loss_of(warm_up=False).backward()
        return True
    except RuntimeError as error:
        assert "memory" in str(error), error
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)

def linear(function, num_rows, hidden, vocabulary, trains_head, extra, **options):
    x, target = torch.ones(num_rows, hidden).requires_grad_(), torch.zeros(num_rows, dtype=torch.int64)
    weight = torch.ones(vocabulary, hidden).requires_grad_(trains_head)
    small = weight[:300].detach().requires_grad_(trains_head)
    def loss_of(warm_up):
        return function(*((x[:1], small, target[:1]) if warm_up else (x, weight, target)), **options).loss
    return fits(loss_of, extra)

def of_logits(extra, **options):
    logits, bias, target = torch.ones(4096, 16384), torch.zeros(16384).requires_grad_(), torch.zeros(4096, dtype=torch.int64)
    def loss_of(warm_up):
        rows = slice(2 if warm_up else None)
        return cross_entropy(logits[rows] + bias, target[rows], **options).loss
    return fits(loss_of, extra)

fused, plain = linear_cross_entropy, reference.linear_cross_entropy
many_rows, wide_head = (2048, 16, 32768), (16, 1024, 65536)  # logits of 256 MiB; a weight of 256 MiB
print(json.dumps({
    "plain": linear(plain, *many_rows, True, 240),
    "chunk": linear(fused, *many_rows, True, 160),
    "recompute": linear(fused, *many_rows, True, 160, method="recompute"),
    "stream": linear(fused, *many_rows, False, 160, method="stream"),
    "budget": linear(fused, *many_rows, False, 64, memory_budget=16 * MiB),
    "frozen head": linear(fused, *wide_head, False, 100),
    "frozen head, streamed": linear(fused, *wide_head, False, 100, method="stream"),
    "trained head": linear(fused, *wide_head, True, 150),
    "trained head, enough": linear(fused, *wide_head, True, 350),
    "logits": of_logits(350),
    "logits, enough": of_logits(600),  # 256 MiB, and their gradient
    "logits, in place": of_logits(350, inplace=True),
}))
"""


def test_peak_memory():
    """Beyond the inputs: a piece of the logits, and of the head's size its gradient only, if it has one."""
    paths = {"PYTHONPATH": str(Path(methods.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", LIMITED], env=paths, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {name for name, fits in found.items() if not fits} == {"plain", "trained head", "logits"}
