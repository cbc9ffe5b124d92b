"""The fused loss where others have gone wrong: what is ignored, frozen, strided, repeated, or asked for a second time."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from cases import FP32, FP64, assert_equal, assert_no_worse, classes, distance, draw, exactly, head, run
from launcher_kernels import SlicedWeight, linear_cross_entropy, reference, targets
from launcher_kernels.output import EXTRAS
from test_linear_cross_entropy import METHODS, some

ALL = ("x", "weight", "bias", "lora_a", "lora_b")


@pytest.fixture(autouse=True)
def many_pieces(small_pieces):
    """A few rows are several chunks here, and 29 classes several slices."""


def compare(tensors, target, upstream=1.0, tolerance=FP64, **options):
    ours, truth = (
        run(f, tensors, target, upstream, **options) for f in (linear_cross_entropy, reference.linear_cross_entropy)
    )
    assert_equal(ours, truth, tolerance)
    return ours


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ignored", [(), (0, 8), (1, 2, 3, 4, 5, 6, 7, 8), tuple(range(9))], ids=str)
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_ignored_rows_have_exactly_no_gradient(method, ignored, ignore_index):
    tensors, target = some(head(9, with_lora=True), ALL, method), classes(9, 29, ignored, ignore_index)
    options = {"method": method, "ignore_index": ignore_index, "reduction": "sum", "returns": EXTRAS}
    ours = compare(tensors, target, **options)
    assert not ours.gradients["x"][target == ignore_index].any()
    if len(ignored) == 9:
        assert not any(g.any() for g in ours.gradients.values() if g is not None) and not ours.result.loss


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_mean_of_nothing(method, dtype):
    """NaN as PyTorch has it, but no gradient of it."""
    tensors = some(head(4, dtype=dtype), ("x", "weight", "bias"), method)
    ours = run(linear_cross_entropy, tensors, torch.full((4,), -100), method=method)
    assert ours.result.loss.isnan()
    assert not any(g.any() for g in ours.gradients.values() if g is not None)


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_in_an_ignored_row_does_not_matter(method):
    tensors, target = some(head(6), ("x", "weight", "bias"), method), classes(6, 29, ignored=[1, 4])
    expected = run(linear_cross_entropy, tensors, target, method=method)
    tensors["x"].detach()[1], tensors["x"].detach()[4] = torch.nan, torch.inf
    assert_equal(run(linear_cross_entropy, tensors, target, method=method), expected, 0)


@pytest.mark.parametrize("bad", [-1, -101, 29, 2**31])
def test_a_target_outside_the_vocabulary_is_refused(bad, monkeypatch):
    tensors, target = some(head(6), ("x", "weight")), classes(6, 29, ignored=[0])
    target[3] = bad
    with pytest.raises(IndexError, match="outside the vocabulary of 29"):
        linear_cross_entropy(**tensors, target=target)
    monkeypatch.setattr(targets, "check_range", lambda *_: None)  # as where a GPU's assertions are off
    assert all(linear_cross_entropy(**tensors, target=target, reduction=r).loss.isnan().any() for r in ("sum", "none"))


@pytest.mark.parametrize("frozen", [(), ("weight", "bias")], ids=str)
@pytest.mark.parametrize("method", ["auto", "recompute"])
@pytest.mark.parametrize("with_weight", [False, True])
def test_a_gradient_for_every_row(frozen, method, with_weight):
    """From above, all different or one number expanded; and the same as a token weight."""
    tensors, target = some(head(9), ("x", "weight", "bias")), classes(9, 29, ignored=[4])
    for name in frozen:
        tensors[name].requires_grad_(False)
    upstream, weight = draw(9, seed=1).detach(), draw(9, seed=2).detach() if with_weight else None
    options = {"reduction": "none", "token_weight": weight, "method": method, "label_smoothing": 0.1, "z_loss": 0.01}
    ours = compare(tensors, target, upstream, **options)
    total = upstream if weight is None else upstream * weight
    summed = run(linear_cross_entropy, tensors, target, **options | {"reduction": "sum", "token_weight": total})
    assert_equal(summed._replace(result=ours.result), ours, FP64)
    compare(tensors, target, torch.tensor(-2.0).expand(9), **options)


@pytest.mark.parametrize("method", METHODS)
def test_any_layout_gives_the_same(method):
    tensors, target = some(head(8), ("x", "weight"), method), classes(8, 29, ignored=[3])
    expected = run(linear_cross_entropy, tensors, target, method=method)
    odd_place = torch.cat([target.new_zeros(1), target])[1:]
    assert odd_place.data_ptr() % 16 == 8
    transposed = {name: t.detach().t().contiguous().t().requires_grad_(t.requires_grad) for name, t in tensors.items()}
    assert_equal(run(linear_cross_entropy, transposed, odd_place, method=method), expected, FP64)
    spread = {name: torch.stack([t.detach()] * 2, -1)[..., 0] for name, t in tensors.items()}
    spread = {name: t.requires_grad_(tensors[name].requires_grad) for name, t in spread.items()}
    assert_equal(run(linear_cross_entropy, spread, target.int(), method=method), expected, FP64)
    batch = tensors | {"x": tensors["x"].detach().view(2, 4, 8).requires_grad_()}
    found = run(linear_cross_entropy, batch, target.view(2, 4), method=method, returns=("argmax",))
    assert found.result.argmax.shape == (2, 4)
    assert distance(found.gradients["x"].view(8, 8), expected.gradients["x"]) <= FP64


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("num_rows", "vocabulary"), [(0, 29), (1, 29), (3, 1)])
def test_few_rows_and_classes(method, num_rows, vocabulary):
    tensors = some(head(num_rows, vocabulary=vocabulary, with_lora=True), ALL, method)
    compare(tensors, classes(num_rows, vocabulary), method=method, reduction="sum")


def test_expanded_inputs():
    tensors = some(head(1), ("x", "weight"))
    tensors["x"] = tensors["x"].detach().expand(9, 8)
    compare(tensors, classes(1, 29).expand(9))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_shifted_targets(reduction):
    tensors, target = some(head(12), ("x", "weight")), classes(12, 29, ignored=[4, 7]).view(2, 6)
    tensors["x"] = tensors["x"].detach().view(2, 6, 8).requires_grad_()
    weight = draw(2, 6, seed=3).detach().abs()
    ours = run(linear_cross_entropy, tensors, target, shift=1, token_weight=weight, reduction=reduction)
    by_hand = tensors | {"x": tensors["x"][:, :-1]}
    truth = run(reference.linear_cross_entropy, by_hand, target[:, 1:], token_weight=weight[:, 1:], reduction=reduction)
    kept = ours.result.loss if reduction == "mean" else ours.result.loss[:, :-1]
    assert distance(kept, truth.result.loss) <= FP64
    assert distance(ours.gradients["weight"], truth.gradients["weight"]) <= FP64
    assert distance(ours.gradients["x"][:, :-1], truth.gradients["x"]) <= FP64 and not ours.gradients["x"][:, -1:].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01, "label_smoothing": 0.0}], ids=str)
@pytest.mark.parametrize("impossible", [slice(0, 8), slice(20, 29), slice(5, 6)], ids=str)
def test_classes_that_a_bias_makes_impossible(method, options, impossible):
    """As padding of a vocabulary: one class, or a whole slice of them."""
    tensors = some(head(5), ("x", "weight", "bias"), method)
    tensors["bias"].detach()[impossible] = -torch.inf
    compare(tensors, torch.tensor([9, 10, 18, 19, 9]), method=method, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_large_logits_do_not_overflow(method, dtype):
    tensors = some(head(11, dtype=dtype), ("x", "weight"), method)
    tensors["x"] = (tensors["x"].detach() * 4000).requires_grad_()
    assert float((tensors["x"] @ tensors["weight"].t()).detach().abs().max()) > 1e4
    truth, plain, ours = (
        run(f, t, classes(11, 29), **how)
        for f, t, how in (
            (reference.linear_cross_entropy, exactly(tensors), {}),
            (reference.linear_cross_entropy, tensors, {}),
            (linear_cross_entropy, tensors, {"method": method}),
        )
    )
    assert_no_worse(ours, plain, truth, FP32 if dtype == torch.float32 else torch.finfo(dtype).eps, factor=2)


@pytest.mark.parametrize("method", METHODS)
def test_confident_predictions_keep_their_gradient(method, products_as_on_a_gpu):
    """p W_y - W_y must not be the difference of two rounded sums, also not where the vocabulary is streamed."""
    tensors = {"x": torch.eye(4, 8), "weight": draw(29, 8, size=0.1, dtype=torch.float32).detach()}
    tensors["weight"][range(4), range(4)] = (
        torch.logit(torch.tensor([0.9, 0.99, 0.999, 0.9999])) + torch.tensor(28.0).log()
    )
    tensors = {name: t.bfloat16().requires_grad_(name == "x" or method != "stream") for name, t in tensors.items()}
    truth = run(reference.linear_cross_entropy, exactly(tensors), torch.arange(4)).gradients
    ours = run(linear_cross_entropy, tensors, torch.arange(4), method=method).gradients
    for name in ("x", "weight") if method != "stream" else ("x",):
        for mine, true in zip(ours[name][:4], truth[name][:4], strict=True):
            assert distance(mine, true) <= 2**-7


@pytest.mark.parametrize("trained", list(itertools.product([False, True], repeat=len(ALL))), ids=str)
def test_whatever_is_frozen_gets_no_gradient(trained):
    tensors = head(9, with_lora=True)
    for name, is_trained in zip(tensors, trained, strict=True):
        tensors[name].requires_grad_(is_trained)
    compare(tensors, classes(9, 29, ignored=[3]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_loss_may_be_used_twice_and_gone_through_twice(reduction):
    tensors, target = some(head(11), ("x", "weight")), classes(11, 29, ignored=[3])
    x, weight = tensors.values()

    def total(function):
        loss, other = (function(x * factor, weight, target, reduction=reduction).loss.sum() for factor in (1, 2))
        return loss * 3 + loss.square() + other

    ours = total(linear_cross_entropy)
    first, second = (torch.autograd.grad(ours, (x, weight), retain_graph=keep) for keep in (True, False))
    for a, b, c in zip(
        first, second, torch.autograd.grad(total(reference.linear_cross_entropy), (x, weight)), strict=True
    ):
        assert torch.equal(a, b)
        assert distance(a, c) <= FP64


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bits_every_time(method, kernels):
    tensors, target = some(head(9, dtype=torch.float32), ("x", "weight", "bias"), method), classes(9, 29, ignored=[2])
    first, *others = (run(linear_cross_entropy, tensors, target, method=method) for _ in range(3))
    for other in others:
        assert_equal(other, first, 0)


def test_autocast_does_not_reach_inside():
    tensors, target = some(head(11, dtype=torch.float32, with_lora=True), ALL), classes(11, 29)
    options = {"label_smoothing": 0.1, "class_weight": draw(29, seed=5).detach().abs()}
    casting = torch.autocast("cpu", dtype=torch.bfloat16)(linear_cross_entropy)
    assert_equal(run(casting, tensors, target, **options), run(linear_cross_entropy, tensors, target, **options), 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_are_refused_rather_than_wrong(reduction):
    x, weight = some(head(6), ("x", "weight")).values()
    loss = linear_cross_entropy(x, weight, classes(6, 29), reduction=reduction).loss.sum()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss.square(), x, create_graph=True)


def test_the_number_of_valid_targets_may_be_told():
    tensors, target = some(head(9), ("x", "weight")), classes(9, 29, ignored=[0, 4, 5])
    compare(tensors, target, n_valid=6)
    compare(tensors, target.clamp(min=0), n_valid=9)
    with pytest.raises(ValueError, match="n_valid 7 is not the number"):
        linear_cross_entropy(**tensors, target=target, n_valid=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": classes(5, 29)}, "shapes do not fit"),
        ({"weight": draw(29, 7)}, r"shapes do not fit: x \(6, 8\), weight \(29, 7\)"),
        ({"bias": draw(28)}, r"bias \(28,\)"),
        ({"lora": (draw(3, 8), draw(29, 2), 1.0)}, r"B \(29, 2\)"),
        ({"method": "fast"}, "'fast' is none of auto, chunk, recompute, stream"),
        ({"method": "stream"}, "for a frozen head"),
        ({"class_weight": draw(29)}, "class_weight gets no gradient"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**some(head(6), ("x", "weight")) | {"target": classes(6, 29)} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_input": torch.ones(5, 8)}, "shapes do not fit: .*lora_input"),
        ({"lora": (torch.ones(2, 8), torch.ones(29, 2), torch.ones(()))}, "the scale of LoRA gets no gradient"),
        ({"weight": SlicedWeight((29, 8), torch.float64, lambda start, stop: torch.ones(1, 8))}, r"gave \(1, 8\)"),
    ],
    ids=["lora_input", "scale", "slice"],
)
def test_what_only_a_head_can_have_wrong(change, message):
    x, weight = torch.ones(5, 8, dtype=torch.float64), torch.ones(29, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**{"x": x, "weight": weight, "target": classes(5, 29)} | change)


def test_a_copy_of_slices_reads_for_itself():
    first = SlicedWeight((29, 8), torch.float64, lambda start, stop: torch.zeros(stop - start, 8, dtype=torch.float64))
    other = replace(first, read=lambda start, stop: torch.ones(stop - start, 8, dtype=torch.float64))
    assert len({first.number, other.number, copy.copy(first).number}) == 3
