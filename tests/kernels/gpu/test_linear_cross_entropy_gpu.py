"""Linear layer and cross-entropy in one: on a GPU no further from fp64 than plain PyTorch, whatever the pieces."""

import math

import pytest
import torch
from gpu_cases import (
    DRY_RUN,
    FP32,
    HALVES,
    distance,
    draw,
    exact,
    fit,
    head,
    in_pieces,
    labels,
    name_of,
    plain,
    run,
    skip_without_memory,
    worse,
)
from launcher_kernels import SlicedWeight, linear_cross_entropy

pytestmark = pytest.mark.gpu
SHAPES = [
    (37, 123, 507),
    (8, 768, 32000),
    (600, 512, 1536),
    (1024, 1024, 50264),
    (4096, 4096, 32000),
    (2048, 2304, 256000),
]
TRAINED = ("chunk", "recompute")
METHODS = (*TRAINED, "stream")


def frozen_for(method: str) -> tuple[str, ...]:
    """What must not be trained for a method to be possible."""
    return ("weight", "bias") if method == "stream" else ()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_no_worse_than_plain(shape, dtype, device):
    if dtype == torch.float32 and shape[1] > 1024:
        pytest.skip("fp32 is held to its own errors in the smaller shapes")
    skip_without_memory(30 if shape[2] > 200_000 else 10)
    sizes = fit(*shape)
    tensors, target = head(sizes, device, dtype), labels(sizes[0], sizes[2], device, ignored=0.1)
    truth, count = exact(tensors, target), int((target != -100).sum())
    found = []
    for options, factor in (({"reduction": "sum"}, 1), ({"reduction": "mean"}, 1 / count), ({"num_items": 77}, 1 / 77)):
        theirs = plain(tensors, target, **options)
        for method in METHODS:
            ours = run(linear_cross_entropy, tensors, target, frozen_for(method), method=method, **options)
            found += worse(f"{method} {options}", ours, theirs, truth.times(factor), dtype, count)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 2**30])
def test_any_piece_gives_the_same_in_fp64(method, size, device, monkeypatch):
    tensors, target = head((13, 8, 29), device, torch.float64), labels(13, 29, device, ignored=0.2)
    truth = exact(tensors, target)
    in_pieces(monkeypatch, rows=size, columns=size)
    ours = run(linear_cross_entropy, tensors, target, frozen_for(method), method=method, reduction="sum")
    assert distance(ours.loss, truth.loss) <= 1e-12
    assert all(distance(gradient, truth.gradients[name]) <= 1e-12 for name, gradient in ours.gradients.items())


@pytest.mark.parametrize("method", METHODS)
def test_many_pieces_are_as_exact_as_one(method, device, monkeypatch):
    """A sum of dW over 64 chunks in bf16 would be four times as far off."""
    sizes = fit(4096, 1024, 32000)
    tensors, target = head(sizes, device, torch.bfloat16), labels(sizes[0], sizes[2], device)
    truth, found = exact(tensors, target), {}
    for parts in (1, 2, 4, 8, 16, 32, 64):
        in_pieces(monkeypatch, rows=-(-sizes[0] // parts), columns=-(-sizes[2] // parts))
        ours = run(linear_cross_entropy, tensors, target, frozen_for(method), method=method, reduction="sum")
        found[parts] = {name: distance(gradient, truth.gradients[name]) for name, gradient in ours.gradients.items()}
    slack = 1.5 if DRY_RUN else 1.05
    for parts, errors in found.items():
        assert all(error <= slack * found[1][name] for name, error in errors.items()), (parts, found)


def test_small_gradients_in_fp16(device):
    """One over 16,384 in the gradient of the logits would round all of it to zero. The last column of W adds that up."""
    skip_without_memory(8)
    num_rows, vocabulary = fit(512, 128256)
    x, weight = (draw((n, 16), device, torch.float32, seed=n) for n in (num_rows, vocabulary))
    x[:, -1], weight[:, -1] = 0.0, 1.0
    weight[0] = 0.0
    tensors = {"x": x.mul_(0.3).half(), "weight": weight.half()}
    target = torch.zeros(num_rows, dtype=torch.int64, device=device)
    truth = exact(tensors, target).gradients["x"][:, -1].sum() / 16384
    for method in METHODS:
        ours = run(
            linear_cross_entropy, tensors, target, frozen_for(method), upstream=1024.0, method=method, num_items=16384
        )
        assert abs(float(ours.gradients["x"][:, -1].double().sum() / 1024 / truth) - 1) <= 1e-3, method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.99, 1.0])
def test_ignored_rows(share, method, device):
    """`n_valid` is the same without a look at the GPU."""
    sizes = fit(300, 64, 5003)
    tensors, target = head(sizes, device, torch.bfloat16), labels(sizes[0], sizes[2], device, ignored=share)
    if 0 < share < 1:
        target[[0, -1]] = -100
        target[3] = 5
    count = int((target != -100).sum())
    for options in ({"reduction": "sum"}, {"num_items": 7}, {"reduction": "mean"}):
        ours = run(linear_cross_entropy, tensors, target, frozen_for(method), method=method, **options)
        told = run(linear_cross_entropy, tensors, target, frozen_for(method), method=method, n_valid=count, **options)
        assert torch.equal(ours.loss, told.loss) or bool(ours.loss.isnan() & told.loss.isnan())
        for name, gradient in ours.gradients.items():
            assert torch.equal(gradient, told.gradients[name]), name
        assert not ours.gradients["x"][target == -100].any()
        if count:
            assert ours.loss.isfinite()
        else:
            assert bool(ours.loss.isnan()) if options.get("reduction") == "mean" else float(ours.loss) == 0
            assert not any(gradient.any() for gradient in ours.gradients.values())


@pytest.mark.parametrize("method", METHODS)
def test_an_ignored_class_of_the_vocabulary(method, device):
    sizes = fit(300, 64, 5003)
    tensors, target = head(sizes, device, torch.float32), labels(sizes[0], sizes[2], device, ignored=0.3, fill=7)
    truth = exact(tensors, target, ignore_index=7)
    ours = run(
        linear_cross_entropy, tensors, target, frozen_for(method), method=method, reduction="sum", ignore_index=7
    )
    assert all(distance(gradient, truth.gradients[name]) <= 2 * FP32 for name, gradient in ours.gradients.items())


@pytest.mark.parametrize("method", METHODS)
def test_gradients_for_every_row(method, device):
    sizes = (33, 17, 101)
    tensors, target = head(sizes, device, torch.float32), labels(33, 101, device, ignored=0.2)
    weight = draw((33,), device, torch.float32, seed=5)
    truth = exact(tensors, target, token_weight=weight)
    how = {"frozen": frozen_for(method), "method": method}
    by_row = run(linear_cross_entropy, tensors, target, upstream=weight, reduction="none", **how)
    by_weight = run(linear_cross_entropy, tensors, target, token_weight=weight, reduction="sum", **how)
    for ours in (by_row, by_weight):
        assert all(distance(gradient, truth.gradients[name]) <= FP32 for name, gradient in ours.gradients.items())
    same = torch.full((1,), 0.3, device=device).expand(33)
    by_stride = run(linear_cross_entropy, tensors, target, upstream=same, reduction="none", **how)
    truth = exact(tensors, target).times(0.3)
    assert all(distance(gradient, truth.gradients[name]) <= FP32 for name, gradient in by_stride.gradients.items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1 / 3, 0.7, 65536.0])
def test_a_gradient_from_above_is_not_rounded(factor, method, device):
    """A loss that is divided outside has a factor in fp32; rounded to bf16 it would change all gradients alike."""
    sizes = fit(512, 256, 8192)
    tensors, target = head(sizes, device, torch.bfloat16), labels(sizes[0], sizes[2], device)
    truth = exact(tensors, target).times(factor)
    for reduction in ("sum", "none"):
        options = {"frozen": frozen_for(method), "upstream": factor}
        ours = run(linear_cross_entropy, tensors, target, method=method, reduction=reduction, **options)
        once = run(linear_cross_entropy, tensors, target, frozen_for(method), method=method, reduction="sum")
        for name, gradient in ours.gradients.items():
            expected = once.gradients[name].double() * factor
            scale = float((gradient.double() * expected).sum() / expected.square().sum())
            assert abs(scale - 1) <= (3e-3 if DRY_RUN else 3e-4), (reduction, name, scale)
            assert distance(gradient, truth.gradients[name]) <= 2**-7, (reduction, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
def test_an_fp32_weight_beside_other_hidden_states(dtype, device, monkeypatch):
    """Its gradient comes back in fp32, and is not rounded on the way."""
    sizes = fit(512, 128, 8000)
    tensors, target = head(sizes, device, torch.float32, bias=False), labels(sizes[0], sizes[2], device)
    tensors["x"] = tensors["x"].to(dtype)
    rounded = tensors | {"weight": tensors["weight"].to(dtype)}
    truth = exact(rounded, target)
    for rows in (2**30, sizes[0] // 3):
        in_pieces(monkeypatch, rows=rows, columns=sizes[2] // 3)
        for method in TRAINED:
            ours = run(linear_cross_entropy, tensors, target, method=method, reduction="sum").gradients["weight"]
            assert ours.dtype == torch.float32
            assert distance(ours, truth.gradients["weight"]) <= (2 * FP32 if dtype == torch.float32 else 2**-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=name_of)
def test_lora_on_the_head(dtype, method, device):
    """As if its product were part of the weight, and the weight were frozen."""
    sizes = fit(256, 128, 8000)
    tensors, target = head(sizes, device, dtype, bias=False), labels(sizes[0], sizes[2], device, ignored=0.2)
    tensors |= {"a": draw((8, sizes[1]), device, dtype, seed=7, size=1 / math.sqrt(sizes[1]))}
    tensors |= {"b": draw((sizes[2], 8), device, dtype, seed=8)}

    def loss_of(x, weight, a, b, target):
        return linear_cross_entropy(x, weight, target, lora=(a, b, 0.75), reduction="sum", method=method)

    ours = run(loss_of, tensors, target, frozen=("weight", "b") if method == "stream" else ("weight",))
    leaves = {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}
    merged = leaves["weight"] + 0.75 * leaves["b"] @ leaves["a"]
    logits = leaves["x"] @ merged.t()
    torch.nn.functional.cross_entropy(logits, target, reduction="sum").backward()
    limit = 4 * FP32 if dtype == torch.float32 else 2**-6
    for name, gradient in ours.gradients.items():
        assert distance(gradient, leaves[name].grad) <= limit, name
    assert "weight" not in ours.gradients


def test_a_weight_by_slices_is_like_a_whole_one(device):
    sizes = fit(512, 128, 8000)
    tensors, target = head(sizes, device, torch.bfloat16, bias=False), labels(sizes[0], sizes[2], device)
    whole = run(linear_cross_entropy, tensors, target, ("weight",), method="stream", reduction="sum")
    weight = tensors.pop("weight")
    slices = SlicedWeight(tuple(weight.shape), weight.dtype, lambda start, stop: weight[start:stop])
    ours = run(
        lambda x, target: linear_cross_entropy(x, slices, target, reduction="sum", method="stream"), tensors, target
    )
    assert torch.equal(ours.loss, whole.loss) and torch.equal(ours.gradients["x"], whole.gradients["x"])
