"""The fused loss against the twin that holds all logits: every option, method, size of a piece, and precision."""

import pytest
import torch
from cases import FP32, FP64, all_pairs, assert_equal, assert_no_worse, classes, distance, draw, exactly, head, run
from launcher_kernels import SlicedWeight, linear_cross_entropy, reference
from launcher_kernels.output import EXTRAS

METHODS = ["chunk", "recompute", "stream"]
OPTIONS = all_pairs(
    method=METHODS,
    label_smoothing=[0.0, 0.1, 0.9],
    z_loss=[0.0, 1e-2],
    softcap=[None, 1.0, 5.0],
    scale=[1.0, 0.7],
    class_weight=[None, draw(29, seed=5).detach().abs()],
    token_weight=[None, draw(7, seed=6).detach().abs()],
    ignore_index=[-100, 2],
    reduction=["mean", "sum", "none"],
    leaves=[("x", "weight"), ("x", "weight", "bias"), ("x", "weight", "bias", "lora_a", "lora_b")],
    head_is_frozen=[False, True],
)


def some(tensors, names, method="auto"):
    """Only these tensors; a streamed head is frozen."""
    for name in ("weight", "bias", "lora_b"):
        if method == "stream" and name in tensors:
            tensors[name].requires_grad_(False)
    return {name: tensors[name] for name in names}


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_any_two_options_together(options, kernels, small_pieces):
    options = dict(options)
    names, is_frozen = options.pop("leaves"), options.pop("head_is_frozen")
    tensors = some(head(7, with_lora=True), names, "stream" if is_frozen else options["method"])
    target = classes(7, 29, ignored=[0, 5], ignore_index=options["ignore_index"])
    upstream = draw(7, seed=9).detach() if options["reduction"] == "none" else -0.5
    ours, truth = (
        run(f, tensors, target, upstream, **options, returns=EXTRAS)
        for f in (linear_cross_entropy, reference.linear_cross_entropy)
    )
    assert_equal(ours, truth, FP64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 13, 29])
@pytest.mark.parametrize("num_rows", [0, 1, 13])
def test_the_size_of_a_piece_changes_nothing(method, size, num_rows, small_pieces):
    small_pieces(rows=size, columns=size)
    tensors = some(head(num_rows), ("x", "weight", "bias"), method)
    target = classes(num_rows, 29, ignored=[2] if num_rows > 2 else [])
    options = {"reduction": "sum", "label_smoothing": 0.1, "returns": EXTRAS}
    ours = run(linear_cross_entropy, tensors, target, method=method, **options)
    assert_equal(ours, run(reference.linear_cross_entropy, tensors, target, **options), FP64)


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("shape", [(37, 123, 507), (64, 32, 300)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("reduction", [{}, {"reduction": "sum", "softcap": 5.0}, {"num_items": 1000}], ids=str)
def test_no_precision_is_worse_than_in_plain_pytorch(shape, dtype, method, reduction):
    """Both are measured against fp64 on the very same numbers. Errors of a single sum may cancel by luck, hence the slack."""
    num_rows, hidden, vocabulary = shape
    tensors = some(head(num_rows, hidden, vocabulary, dtype), ("x", "weight", "bias"), method)
    tensors["weight"] = (tensors["weight"].detach() / hidden**0.5).requires_grad_(tensors["weight"].requires_grad)
    target = classes(num_rows, vocabulary, ignored=[1, 2])
    truth = run(reference.linear_cross_entropy, exactly(tensors), target, **reduction)
    plain = run(reference.linear_cross_entropy, tensors, target, **reduction)
    ours = run(linear_cross_entropy, tensors, target, method=method, **reduction)
    assert all(g is None or g.dtype == dtype for g in ours.gradients.values())
    slack = FP32 if dtype == torch.float32 else torch.finfo(dtype).eps / 16
    assert_no_worse(ours, plain, truth, slack, factor=1.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", [{}, {"num_items": 20_000}], ids=str)
def test_products_in_half_precision(dtype, reduction, products_as_on_a_gpu):
    """One chunk: the gradient of the logits is rounded once, and so is the head's."""
    tensors, target = some(head(48, 64, 700, dtype), ("x", "weight")), classes(48, 700, ignored=[1])
    options = reduction | {"upstream": 65536.0}  # a loss scale, without which plain PyTorch has zeros in fp16
    truth = run(reference.linear_cross_entropy, exactly(tensors), target, **options)
    plain = run(reference.linear_cross_entropy, tensors, target, **options)
    ours = run(linear_cross_entropy, tensors, target, **options)
    assert_no_worse(ours, plain, truth, FP32, factor=1.1)


def test_small_gradients_survive_in_fp16_until_the_loss_scale(products_as_on_a_gpu):
    """Of p / N in fp16, 70% is zero at N = 16,384 and V = 128,256. Here the gradient of x adds up just that."""
    target = classes(4, 100_000)
    weight = draw(100_000, 2, dtype=torch.float16).detach()
    weight[:, 0] = torch.ones(100_000).index_fill(0, target, 0)
    tensors = {"x": draw(4, 2, size=0.1, dtype=torch.float16), "weight": weight}
    options = {"num_items": 16384, "upstream": 65536.0}
    truth = run(reference.linear_cross_entropy, exactly(tensors), target, **options).gradients["x"][:, 0]
    ours = run(linear_cross_entropy, tensors, target, **options).gradients["x"][:, 0]
    assert distance(ours, truth) <= 1e-3


def test_many_chunks_are_as_exact_as_one_in_bf16(small_pieces, products_as_on_a_gpu):
    """A running sum of the head's gradient in bf16 loses a factor of three over 64 chunks, which is what asking for it does."""
    tensors, target = some(head(256, 16, 64, torch.bfloat16), ("x", "weight")), classes(256, 64)
    truth = run(reference.linear_cross_entropy, exactly(tensors), target).gradients["weight"]

    def error(rows, **options):
        small_pieces(rows=rows)
        return distance(
            run(linear_cross_entropy, tensors, target, method="chunk", **options).gradients["weight"], truth
        )

    assert error(rows=4) <= 1.5 * error(rows=256) < error(rows=4, accumulate_dtype=torch.bfloat16)


@pytest.mark.parametrize("method", ["chunk", "recompute"])
def test_an_fp32_head_beside_bf16_inputs_gets_an_unrounded_gradient(method, small_pieces):
    tensors, target = some(head(24, dtype=torch.bfloat16), ("x", "weight", "bias")), classes(24, 29)
    mixed = tensors | {name: tensors[name].detach().float().requires_grad_() for name in ("weight", "bias")}
    truth = run(reference.linear_cross_entropy, exactly(tensors), target)
    plain = run(reference.linear_cross_entropy, mixed, target)
    ours = run(linear_cross_entropy, mixed, target, method=method)
    assert_no_worse(ours, plain, truth, FP32)
    gradient = ours.gradients["weight"]
    assert gradient.dtype == torch.float32 and not torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("other", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_all_tensors_may_have_a_precision_of_their_own(method, other, small_pieces):
    tensors = some(head(9, dtype=torch.float32, with_lora=True), ("x", "weight", "bias", "lora_a", "lora_b"), method)
    for name in ("weight", "lora_b"):
        tensors[name] = tensors[name].detach().to(other).requires_grad_(tensors[name].requires_grad)
    truth = run(reference.linear_cross_entropy, tensors, classes(9, 29))
    ours = run(linear_cross_entropy, tensors, classes(9, 29), method=method)
    assert_equal(ours, truth, 2 * torch.finfo(other).eps + FP32)
    assert all(g is None or g.dtype == tensors[name].dtype for name, g in ours.gradients.items())


@pytest.mark.parametrize("method", ["chunk", "recompute", "stream", "auto"])
@pytest.mark.parametrize("frozen", [(), ("weight", "bias"), ("x",)], ids=str)
def test_lora_on_the_head_equals_a_merged_weight(method, frozen, small_pieces):
    tensors = some(head(9, with_lora=True), ("x", "weight", "lora_a", "lora_b"), method)
    tensors["lora_input"] = draw(9, 8, seed=7)  # what dropout made of x

    def merged(x, weight, target, lora, lora_input):
        a, b, scale = lora
        merged_weight = torch.cat([weight, scale * b @ a], 1)
        return reference.linear_cross_entropy(torch.cat([x, lora_input], 1), merged_weight, target)

    for name in set(frozen) & set(tensors):
        tensors[name].requires_grad_(False)
    target = classes(9, 29, ignored=[3])
    assert_equal(run(linear_cross_entropy, tensors, target, method=method), run(merged, tensors, target), FP64)


@pytest.mark.parametrize("method", ["auto", "recompute"])
@pytest.mark.parametrize("trains_lora", [False, True])
def test_a_head_that_exists_by_slices_only(method, trains_lora, small_pieces):
    """Each slice is read once for a frozen head, twice where the head has something to train."""
    small_pieces(columns=10)
    tensors, reads = head(9, with_lora=True), []
    weight = tensors.pop("weight").detach()
    if not trains_lora:
        tensors = {"x": tensors["x"]}

    def read(start, stop):
        reads.append((start, stop))
        return weight[start:stop].clone()

    sliced = SlicedWeight(weight.shape, weight.dtype, read)
    target = classes(9, 29, ignored=[3])
    ours = run(linear_cross_entropy, tensors, target, weight=sliced, method=method, label_smoothing=0.1)
    truth = run(reference.linear_cross_entropy, tensors, target, weight=weight, label_smoothing=0.1)
    assert_equal(ours, truth, FP64)
    assert reads == [(0, 10), (10, 20), (20, 29)] * (2 if trains_lora or method == "recompute" else 1)


def test_slices_are_there_for_as_long_as_the_graph():
    """The caller may forget the object; a second backward pass reads it again."""
    tensors, target = head(9, with_lora=True), classes(9, 29)
    weight, x, a, b = (tensors[name].detach() for name in ("weight", "x", "lora_a", "lora_b"))
    leaves = [t.requires_grad_() for t in (x, a, b)]

    def loss(of_weight):
        return linear_cross_entropy(x, of_weight, target, lora=(a, b, 0.5), reduction="sum", method="recompute").loss

    forgotten = loss(SlicedWeight(weight.shape, weight.dtype, lambda start, stop: weight[start:stop]))
    first = torch.autograd.grad(forgotten, leaves, retain_graph=True)
    second = torch.autograd.grad(forgotten, leaves)
    truth = torch.autograd.grad(loss(weight), leaves)
    for found in (*zip(first, truth, strict=True), *zip(second, truth, strict=True)):
        assert torch.equal(*found)


@pytest.mark.parametrize("upstream", [0.0, -3.0, 1 / 7, 65536.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_gradient_from_above(upstream, dtype):
    """Of any precision: nothing overflows that the true gradient does not overflow."""
    tensors, target = some(head(11, dtype=dtype), ("x", "weight", "bias")), classes(11, 29)
    truth = run(reference.linear_cross_entropy, exactly(tensors), target, upstream)
    ours = run(linear_cross_entropy, tensors, target, upstream)
    assert_equal(ours, truth, FP32 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)
