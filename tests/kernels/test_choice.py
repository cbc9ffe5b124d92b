"""Which way through the vocabulary is taken: arithmetic that can be checked without a GPU."""

import itertools

import pytest
import torch
from launcher_kernels import Choice, choose
from launcher_kernels.choice import GPU_TRAINED_ROWS, LEAST_COLUMNS, LEAST_ROWS

LLAMA, GEMMA, SMALL = (4096, 128_256), (2304, 256_000), (640, 262_144)
MiB = 2**20


def on_gpu(num_rows, head, trains_weight=True, dtype=torch.bfloat16, **options) -> Choice:
    return choose(num_rows, *head, dtype=dtype, device="cuda", trains_weight=trains_weight, **options)


@pytest.mark.parametrize("head", [LLAMA, GEMMA, SMALL], ids=str)
def test_one_chunk_until_two_and_an_fp32_sum_are_smaller(head):
    """2 N V bytes of logits against 2 C V and 4 V H of the sum: N < C + 2 H."""
    hidden, vocabulary = head
    limit = GPU_TRAINED_ROWS + 2 * hidden
    one, many = on_gpu(limit - 1, head), on_gpu(limit, head)
    assert (one.method, one.rows, one.extra_bytes) == ("chunk", limit - 1, 2 * (limit - 1) * vocabulary)
    assert many.method == "chunk" and many.rows <= GPU_TRAINED_ROWS
    assert many.extra_bytes == 2 * many.rows * vocabulary + 4 * hidden * vocabulary


@pytest.mark.parametrize("num_rows", [8192, 20_000, 65_536, 100_001])
def test_chunks_are_of_equal_size(num_rows):
    for trains_weight in (True, False):
        found = on_gpu(num_rows, LLAMA, trains_weight)
        chunks = -(-num_rows // found.rows)
        assert found.rows == num_rows or found.rows % 128 == 0
        assert chunks * found.rows - num_rows < chunks * 128


@pytest.mark.parametrize("head", [LLAMA, GEMMA, SMALL], ids=str)
@pytest.mark.parametrize("num_rows", [1, 1000, 8192, 65_536])
def test_a_frozen_head_never_costs_memory_of_its_size(head, num_rows):
    """Half a GiB of logits, or 1,024 rows of them where that is more."""
    found = on_gpu(num_rows, head, trains_weight=False)
    assert found.extra_bytes <= max(512 * MiB, 2 * head[1] * 1024) + 2 * head[1] * 128
    assert found.extra_bytes == 2 * found.rows * head[1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("trains_weight", [False, True])
@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16,) * 2, (torch.bfloat16, torch.float32), (torch.float32,) * 2], ids=str
)
@pytest.mark.parametrize("num_rows", [100, 5000, 65_536])
def test_a_budget_is_kept_or_the_smallest_way_is_taken(device, trains_weight, dtypes, num_rows):
    for head, budget in itertools.product((LLAMA, SMALL), (1, 64 * MiB, 512 * MiB, 2048 * MiB, 2**40)):
        sizes = {"dtype": dtypes[0], "weight_dtype": dtypes[1], "device": device, "trains_weight": trains_weight}
        found = choose(num_rows, *head, **sizes, memory_budget=budget)
        methods = ["chunk", "recompute" if trains_weight else "stream"]
        asked = [choose(num_rows, *head, **sizes, memory_budget=budget, method=method) for method in methods]
        smallest = min(each.extra_bytes for each in asked)
        assert found.extra_bytes <= budget or found.extra_bytes == smallest
        if smallest > budget:
            assert all(each.rows <= max(LEAST_ROWS.values()) or each.columns <= LEAST_COLUMNS for each in asked)


def test_a_budget_is_used_before_another_method_is_taken():
    """Fewer rows at a time first; they are worth a fourth matrix product only once that is not enough."""
    roomy = on_gpu(8192, LLAMA)
    fewer = on_gpu(20_000, LLAMA, memory_budget=3000 * MiB)
    tight = on_gpu(8192, LLAMA, memory_budget=512 * MiB)
    frozen = on_gpu(8192, LLAMA, trains_weight=False, memory_budget=256 * MiB)
    tiny = on_gpu(8192, LLAMA, trains_weight=False, memory_budget=250 * MiB)
    assert (roomy.method, roomy.rows) == ("chunk", 8192)
    assert fewer.method == "chunk" and fewer.rows < on_gpu(20_000, LLAMA).rows and fewer.extra_bytes <= 3000 * MiB
    assert tight.method == "recompute" and tight.extra_bytes <= 512 * MiB
    assert frozen.method == "chunk" and frozen.rows == 1024
    assert tiny.method in ("stream", "chunk") and (tiny.method == "stream") == (tiny.extra_bytes <= 250 * MiB)


def test_what_else_is_trained_decides_between_recompute_and_stream():
    options = {"trains_weight": False, "memory_budget": 512 * MiB, "has_only_slices": True}
    assert on_gpu(8192, LLAMA, **options).method == "stream"
    assert on_gpu(8192, LLAMA, **options, trains_head_otherwise=True).method == "recompute"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "trained head"),
        ({"trains_weight": False}, "frozen head"),
        ({"method": "recompute"}, "as asked"),
        ({"method": "chunk"}, "as asked"),
        ({"trains_weight": False, "has_only_slices": True}, "the weight exists by slices only"),
        ({"memory_budget": 512 * MiB}, "chunks of 1,024 rows would take 2,254 MiB"),
    ],
    ids=str,
)
def test_the_reason_is_named(options, reason):
    found = on_gpu(8192, LLAMA, **options)
    assert found.reason == reason
    assert str(found).startswith(found.method) and str(found).endswith(f"MiB ({reason})")


@pytest.mark.parametrize("num_rows", [0, 1])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", ["auto", "chunk", "recompute", "stream"])
def test_hardly_any_rows(num_rows, device, method):
    found = choose(num_rows, 8, 1, dtype=torch.float32, device=device, trains_weight=False, method=method)
    assert found.rows >= (method in ("auto", "chunk")) and found.columns == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fast"}, "'fast' is none of auto, chunk, recompute, stream"),
        ({"method": "stream"}, "for a frozen head: use 'recompute'"),
        ({"method": "stream", "trains_weight": False, "trains_head_otherwise": True}, "for a frozen head"),
        ({"method": "chunk", "trains_weight": False, "has_only_slices": True}, "needs the whole weight"),
    ],
    ids=str,
)
def test_what_is_impossible_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        on_gpu(8192, LLAMA, **options)
