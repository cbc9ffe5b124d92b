"""Strides, types and shapes that a kernel may get wrong by its pointers alone; and results that do not change from run to run."""

from collections.abc import Callable

import pytest
import torch
from gpu_cases import FP32, distance, draw, fit, head, labels, name_of, run
from launcher_kernels import cross_entropy, linear_cross_entropy, reference

pytestmark = pytest.mark.gpu
METHODS = ("chunk", "recompute", "stream")
SIZES = (48, 64, 503)


def gradients(loss, *leaves):
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_like(found, expected, tolerance: float = 4 * FP32) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        assert distance(mine, other) <= tolerance


def not_by_16_bytes(target):
    """The same labels 8 bytes further, where a vector load of 16 bytes would read its neighbour's."""
    moved = torch.empty(len(target) + 2, dtype=target.dtype, device=target.device)
    start = 1 if moved.data_ptr() % 16 == 0 else 2
    moved = moved[start : start + len(target)].copy_(target)
    assert moved.data_ptr() % 16 == 8
    return moved


TARGETS: dict[str, Callable] = {
    "int32": lambda target: target.int(),
    "not by 16 bytes": not_by_16_bytes,
    "every second": lambda target: torch.stack([target, target + 1], 1)[:, 0],
}


@pytest.mark.parametrize("change", TARGETS)
def test_layout_of_targets(change, device):
    tensors, target = head(SIZES, device, torch.float32), labels(SIZES[0], SIZES[2], device, ignored=0.2)
    changed = TARGETS[change](target)
    for method in METHODS:
        frozen = ("weight", "bias") if method == "stream" else ()
        ours, expected = (run(linear_cross_entropy, tensors, t, frozen, method=method) for t in (changed, target))
        assert torch.equal(ours.loss, expected.loss)
        assert all(torch.equal(ours.gradients[name], expected.gradients[name]) for name in expected.gradients)
    logits = {"logits": draw((SIZES[0], SIZES[2]), device, torch.float32)}
    ours, expected = (run(cross_entropy, logits, t) for t in (changed, target))
    assert torch.equal(ours.loss, expected.loss) and torch.equal(ours.gradients["logits"], expected.gradients["logits"])


def test_expanded_targets_and_hidden_states(device):
    tensors = head(SIZES, device, torch.float32, bias=False)
    target = torch.full((1,), 5, device=device).expand(SIZES[0])
    x, weight = tensors["x"][:1].expand(SIZES[0], -1), tensors["weight"].requires_grad_()
    results = [f(x, weight, target) for f in (linear_cross_entropy, reference.linear_cross_entropy)]
    assert_like(*(gradients(result.loss, weight) for result in results))


@pytest.mark.parametrize("method", METHODS)
def test_strided_inputs(method, device):
    """Columns first, every second column, and a transposed view of the weight."""
    tensors, target = head(SIZES, device, torch.float32), labels(SIZES[0], SIZES[2], device, ignored=0.2)
    trains = method != "stream"
    layouts = {
        "dense": lambda t: t.clone(),
        "columns first": lambda t: t.t().contiguous().t() if t.ndim == 2 else t.clone(),
        "every second": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    }
    found = {}
    for name, layout in layouts.items():
        x, weight, bias = (layout(tensors[key]).detach() for key in ("x", "weight", "bias"))
        assert name == "dense" or not x.is_contiguous()
        leaves = [x.requires_grad_(), *([weight.requires_grad_(), bias.requires_grad_()] if trains else [])]
        found[name] = gradients(linear_cross_entropy(x, weight, target, bias=bias, method=method).loss, *leaves)
    for name in ("columns first", "every second"):
        assert_like(found[name], found["dense"])


def test_strided_logits_and_weights(device):
    logits, target = draw((SIZES[0], SIZES[2]), device, torch.float32), labels(SIZES[0], SIZES[2], device)
    class_weight = draw((2 * SIZES[2],), device, torch.float32, seed=4).abs()[::2]
    token_weight = draw((2 * SIZES[0],), device, torch.float32, seed=5).abs()[::2]
    options = {"label_smoothing": 0.1, "token_weight": token_weight, "class_weight": class_weight}
    for layout in (logits, logits.t().contiguous().t(), torch.stack([logits, logits], -1)[..., 0]):
        leaf = layout.detach().requires_grad_()
        ours = gradients(cross_entropy(leaf, target, **options).loss, leaf)
        assert_like(ours, gradients(reference.cross_entropy(leaf, target, **options).loss, leaf))


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_batches_and_shifted_targets(shift, device):
    batch, length = 3, 16
    tensors, target = head((48, 64, 503), device, torch.float32), labels(48, 503, device, ignored=0.2)
    x, target = tensors["x"].view(batch, length, -1).requires_grad_(), target.view(batch, length)
    weight = tensors["weight"].requires_grad_()
    by_hand = target.roll(-shift, 1)
    by_hand[:, length - shift :] = -100
    ours = linear_cross_entropy(x, weight, target, shift=shift, reduction="none", returns=("argmax",))
    expected = reference.linear_cross_entropy(x, weight, by_hand, reduction="none", returns=("argmax",))
    assert ours.loss.shape == target.shape and torch.equal(ours.argmax, expected.argmax)
    assert_like([ours.loss.detach()], [expected.loss.detach()])
    total, truth = (gradients(result.loss.sum(), x, weight) for result in (ours, expected))
    assert_like(total, truth)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(0, 8, 29), (1, 8, 29), (5, 8, 1), (1, 1, 1), (5, 1, 29)], ids=name_of)
def test_sizes_of_none_and_one(sizes, method, device):
    tensors = head(sizes, device, torch.float32)
    target = torch.zeros(sizes[0], dtype=torch.int64, device=device)
    frozen = ("weight", "bias") if method == "stream" else ()
    ours = run(linear_cross_entropy, tensors, target, frozen, method=method, reduction="sum")
    expected = run(reference.linear_cross_entropy, tensors, target, frozen, reduction="sum")
    torch.testing.assert_close(ours.loss, expected.loss)
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    by_rows = run(cross_entropy, {"logits": draw((sizes[0], sizes[2]), device, torch.float32)}, target, reduction="sum")
    assert by_rows.loss.isfinite()


def test_one_class_in_any_layout(device):
    """A dimension of one has any stride."""
    logits = torch.zeros(1, 4, device=device).t().requires_grad_()
    loss = cross_entropy(logits, torch.zeros(4, dtype=torch.int64, device=device)).loss
    assert float(loss.detach()) == 0 and not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=name_of)
def test_ten_times_the_same(dtype, method, device):
    sizes = fit(1024, 512, 32000)
    tensors, target = head(sizes, device, dtype), labels(sizes[0], sizes[2], device, ignored=0.3)
    frozen = ("weight", "bias") if method == "stream" else ()
    first = run(linear_cross_entropy, tensors, target, frozen, method=method)
    for _ in range(9):
        again = run(linear_cross_entropy, tensors, target, frozen, method=method)
        assert torch.equal(again.loss, first.loss)
        assert all(torch.equal(again.gradients[name], gradient) for name, gradient in first.gradients.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_gone_through_twice_and_a_loss_used_twice(method, device):
    tensors, target = head(SIZES, device, torch.bfloat16), labels(SIZES[0], SIZES[2], device, ignored=0.2)
    trains = method != "stream"
    leaves = [tensors[name].requires_grad_(name == "x" or trains) for name in ("x", "weight", "bias")]
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    loss = linear_cross_entropy(leaves[0], leaves[1], target, bias=leaves[2], method=method).loss
    first = torch.autograd.grad(loss, asked, retain_graph=True)
    assert all(
        torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, asked, retain_graph=True), strict=True)
    )
    twice = torch.autograd.grad(loss * 3 + loss.square(), asked)
    factor = 3 + 2 * float(loss.detach())
    assert all(distance(b, a.double() * factor) <= 2**-8 for a, b in zip(first, twice, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("method", METHODS)
def test_with_a_loss_scale(method, dtype, device):
    """fp32 weights, half-precision products, and 65,536 on the loss: nothing overflows, and no small gradient is lost."""
    sizes = fit(512, 256, 32000)
    tensors, target = head(sizes, device, torch.float32, bias=False), labels(sizes[0], sizes[2], device)
    x, weight = (tensors[name].clone().requires_grad_(name == "x" or method != "stream") for name in ("x", "weight"))
    asked = [leaf for leaf in (x, weight) if leaf.requires_grad]
    optimizer, scaler = torch.optim.SGD(asked, 0.0), torch.amp.GradScaler(device.type, init_scale=65536.0)
    with torch.autocast(device.type, dtype=dtype):
        loss = linear_cross_entropy(x.to(dtype), weight, target, method=method).loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    truth = run(reference.linear_cross_entropy, {n: t.double() for n, t in tensors.items()}, target)
    assert all(leaf.grad.isfinite().all() for leaf in asked)
    for name, leaf in zip(("x", "weight"), asked, strict=False):
        assert distance(leaf.grad, truth.gradients[name]) <= 2**-6, name


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_fp16_logits_with_a_loss_scale(reduction, device):
    """A factor of 65,536 is more than fp16 can hold, but what it makes of small gradients is not."""
    num_rows, vocabulary = fit(512, 32000)
    logits, target = draw((num_rows, vocabulary), device, torch.float16), labels(num_rows, vocabulary, device, 0.2)
    count = int((target != -100).sum()) if reduction == "mean" else 1
    ours = run(cross_entropy, {"logits": logits}, target, upstream=65536.0, reduction=reduction).gradients["logits"]
    truth = run(reference.cross_entropy, {"logits": logits.double()}, target, reduction="sum").gradients["logits"]
    small = truth.abs() * 65536 / count < 30000
    assert small.sum() > small.numel() / 2 and ours[small].isfinite().all()
    assert distance(ours[small], truth[small] * 65536 / count) <= 2**-9 + 2**-24 / float(truth[small].abs().median())
