"""What a GPU's memory and stream see: no buffer of the weight's size for a frozen head, and no waiting where nothing has to."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from gpu_cases import distance, draw, head, in_pieces, labels, name_of, run, skip_without_memory
from launcher_kernels import SlicedWeight, cross_entropy, linear_cross_entropy, reference

pytestmark = pytest.mark.gpu
METHODS = ("chunk", "recompute", "stream")
NAMES = ("x", "weight", "bias", "a", "b")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU is an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def peak_bytes(work) -> int:
    """The most memory that `work` has taken at once beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = work()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "wanted", list(itertools.product([False, True], repeat=5)), ids=lambda w: "".join(map(str, map(int, w)))
)
def test_gradients_of_just_what_asks_for_one(wanted, method, device):
    """x, weight, bias, A and B: frozen ones have none, and the others' do not change."""
    tensors, target = head((24, 16, 101), device, torch.float32), labels(24, 101, device, ignored=0.2)
    tensors |= {"a": draw((4, 16), device, torch.float32, seed=7), "b": draw((101, 4), device, torch.float32, seed=8)}
    frozen = tuple(name for name, asks in zip(NAMES, wanted, strict=True) if not asks)

    def through(function, **options):
        return lambda target, x, weight, bias, a, b: function(
            x, weight, target, bias=bias, lora=(a, b, 0.5), reduction="sum", **options
        )

    if method == "stream" and {"weight", "bias", "b"} - set(frozen):
        with pytest.raises(ValueError, match="frozen head"):
            run(through(linear_cross_entropy, method=method), tensors, target, frozen)
        return
    ours = run(through(linear_cross_entropy, method=method), tensors, target, frozen)
    truth = run(through(reference.linear_cross_entropy), {n: t.double() for n, t in tensors.items()}, target, frozen)
    assert set(ours.gradients) == set(truth.gradients) == set(NAMES) - set(frozen)
    assert all(distance(ours.gradients[name], truth.gradients[name]) <= 4e-6 for name in ours.gradients)


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_head_takes_no_memory_of_its_size(method, gpu):
    """256 rows: all logits are 1/8 of the weight, whose gradient or fp32 sum would be as large as it, or twice."""
    num_rows, hidden, vocabulary = 256, 2048, 64000
    tensors = head((num_rows, hidden, vocabulary), gpu, torch.bfloat16, bias=False)
    target = labels(num_rows, vocabulary, gpu)
    x, weight = tensors["x"].requires_grad_(), tensors["weight"]
    size = weight.numel() * weight.itemsize

    def step():
        return torch.autograd.grad(linear_cross_entropy(x, weight, target, method=method, n_valid=num_rows).loss, x)

    step()  # cuBLAS takes its workspace
    assert peak_bytes(step) < size / 2


@pytest.mark.parametrize("method", ["stream", "recompute"])
def test_a_weight_by_slices_is_never_whole(method, gpu):
    num_rows, hidden, vocabulary = 256, 2048, 64000
    quarters = [draw((vocabulary // 4, hidden), gpu, torch.int8, seed=i, size=30.0) for i in range(4)]
    whole = torch.cat(quarters)
    weight = SlicedWeight((vocabulary, hidden), torch.bfloat16, lambda start, stop: whole[start:stop].bfloat16() / 1024)
    x, target = draw((num_rows, hidden), gpu, torch.bfloat16).requires_grad_(), labels(num_rows, vocabulary, gpu)
    options = {"method": method, "n_valid": num_rows, "memory_budget": 32 * 2**20}

    def step():
        return torch.autograd.grad(linear_cross_entropy(x, weight, target, **options).loss, x)

    step()
    assert peak_bytes(step) < vocabulary * hidden * 2 / 2


@pytest.mark.parametrize(("method", "rows"), [("chunk", 2048), ("recompute", 2**30)])
def test_a_trained_head_takes_what_is_promised(method, rows, gpu, monkeypatch):
    """One gradient, and what `choose` says: an fp32 sum only where chunks are summed up."""
    num_rows, hidden, vocabulary = 8192, 1024, 64000
    tensors, target = (
        head((num_rows, hidden, vocabulary), gpu, torch.bfloat16, bias=False),
        labels(num_rows, vocabulary, gpu),
    )
    x, weight = (tensors[name].requires_grad_() for name in ("x", "weight"))
    in_pieces(monkeypatch, rows=rows, columns=2048)
    returned = (weight.numel() + x.numel()) * 2
    logits = (2048 * vocabulary if method == "chunk" else num_rows * 2048) * 2
    sums = weight.numel() * 4 if method == "chunk" else x.numel() * 4

    def step():
        return torch.autograd.grad(linear_cross_entropy(x, weight, target, method=method).loss, (x, weight))

    step()
    assert peak_bytes(step) < 1.1 * (returned + logits + sums)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=name_of)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_waits_for_the_gpu_if_n_valid_is_known(method, dtype, gpu):
    sizes = (2048, 256, 32000)
    tensors, target = head(sizes, gpu, dtype), labels(sizes[0], sizes[2], gpu, ignored=0.3)
    tensors |= {"a": draw((8, sizes[1]), gpu, dtype, seed=7), "b": draw((sizes[2], 8), gpu, dtype, seed=8)}
    count, frozen = int((target != -100).sum()), {"weight", "bias", "b"} if method == "stream" else set()
    leaves = {name: tensor.requires_grad_(name not in frozen) for name, tensor in tensors.items()}
    items, weight = torch.tensor(777, device=gpu), torch.rand(sizes[0], device=gpu)
    class_weight = torch.rand(sizes[2], device=gpu)
    every = {"returns": ("correct", "argmax", "entropy", "logsumexp", "z_loss"), "n_valid": count, "method": method}
    ways = [
        {"reduction": "mean"},
        {"reduction": "sum", "softcap": 30.0, "z_loss": 1e-4, "label_smoothing": 0.1},
        {"num_items": 777, "token_weight": weight},
        {"num_items": items, "class_weight": class_weight, "scale": 0.5},
        {"reduction": "none"},
    ]

    def step(**options):
        x, head_weight, bias, a, b = (leaves[name] for name in NAMES)
        loss = linear_cross_entropy(x, head_weight, target, bias=bias, lora=(a, b, 0.5), **options, **every).loss
        loss.backward(torch.ones_like(loss))

    for options in ways:
        step(**options)  # compiled now
    with no_waiting():
        for options in ways:
            step(**options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=name_of)
@pytest.mark.parametrize("inplace", [False, True])
def test_nothing_waits_for_the_gpu_with_logits(inplace, dtype, gpu):
    logits, target = draw((256, 32000), gpu, dtype).requires_grad_(), labels(256, 32000, gpu, ignored=0.3)
    ways = [{"reduction": "mean"}, {"reduction": "sum"}, {"num_items": 77}, {"num_items": torch.tensor(77, device=gpu)}]

    def step(**options):
        cross_entropy(logits * 1, target, inplace=inplace, returns=("correct",), **options).loss.backward()

    for options in ways:
        step(**options)
    with no_waiting():
        for options in ways:
            step(**options)


@pytest.mark.parametrize("method", METHODS)
def test_captured_as_a_cuda_graph(method, gpu):
    """The same graph with other numbers in the same memory gives what they give without one."""
    sizes = (1024, 256, 32000)
    tensors, target = head(sizes, gpu, torch.bfloat16), labels(sizes[0], sizes[2], gpu)
    target[::4] = -100
    trained = ("x",) if method == "stream" else ("x", "weight", "bias")
    leaves = {name: tensor.requires_grad_(name in trained) for name, tensor in tensors.items()}
    asked = [leaves[name] for name in trained]
    count = int((target != -100).sum())

    def step():
        loss = linear_cross_entropy(
            leaves["x"], leaves["weight"], target, bias=leaves["bias"], method=method, n_valid=count
        ).loss
        return loss.detach(), *torch.autograd.grad(loss, asked)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves["x"].copy_(draw(sizes[:2], gpu, torch.bfloat16, seed=11))
        target.copy_(target.roll(2))
    graph.replay()
    torch.cuda.synchronize()
    expected = step()
    assert all(torch.equal(mine, other) for mine, other in zip(captured, expected, strict=True))


def test_on_a_gpu_that_is_not_the_current_one(gpu):
    if (count := torch.cuda.device_count()) < 2:
        pytest.skip(f"needs 2 GPUs, there is {count}")
    other = torch.device("cuda", 1)
    tensors, target = head((64, 32, 5003), other, torch.float32), labels(64, 5003, other, ignored=0.2)
    assert torch.cuda.current_device() == 0
    ours = run(linear_cross_entropy, tensors, target, reduction="sum")
    truth = run(reference.linear_cross_entropy, {n: t.double() for n, t in tensors.items()}, target, reduction="sum")
    assert all(distance(gradient, truth.gradients[name]) <= 4e-6 for name, gradient in ours.gradients.items())


def test_one_piece_of_more_logits_than_32_bits_can_count(gpu, monkeypatch):
    skip_without_memory(16)
    sizes = (20000, 64, 131072)
    tensors, target = head(sizes, gpu, torch.bfloat16), labels(sizes[0], sizes[2], gpu)
    in_pieces(monkeypatch)
    whole = run(linear_cross_entropy, tensors, target, method="chunk", reduction="sum")
    in_pieces(monkeypatch, rows=2048)
    parts = run(linear_cross_entropy, tensors, target, method="chunk", reduction="sum")
    assert distance(whole.loss, parts.loss) <= 1e-5
    for name, gradient in whole.gradients.items():
        assert distance(gradient, parts.gradients[name]) <= 2**-7, name
    assert distance(whole.gradients["x"][-8:], parts.gradients["x"][-8:]) <= 2**-7
