"""The loss of given logits where others have gone wrong: extreme numbers, ignored and impossible targets, and layouts in memory."""

import mmap

import pytest
import torch
from cases import FP32, FP64, assert_equal, assert_no_worse, classes, distance, draw, exactly, run
from launcher_kernels import cross_entropy, reference, targets
from launcher_kernels.formula import Formula, prepare

NO_RESERVE = 0x4000  # mmap.MAP_NORESERVE, which Python has by name from 3.13 on
uses_kernels = pytest.mark.usefixtures("kernels")


def extreme(name: str, vocabulary: int) -> torch.Tensor:
    logits = draw(3, vocabulary).detach()
    if name == "peaked":
        logits.fill_(-15)[:, vocabulary - 1] = 3
    elif name == "low":
        logits.fill_(-1e4)
    elif name == "wide":
        logits *= 1e4
    elif name == "one is -inf":
        logits[:, 7] = -torch.inf
    elif name == "half is -inf":
        logits[:, :20] = -torch.inf
    elif name == "one is inf":
        logits[1, 7] = torch.inf
    return logits.float().requires_grad_()


@uses_kernels
@pytest.mark.parametrize("name", ["peaked", "low", "wide", "one is -inf", "half is -inf", "one is inf"])
@pytest.mark.parametrize("vocabulary", [33, 64])
@pytest.mark.parametrize("softcap", [None, 1.0])
def test_extreme_logits(name, vocabulary, softcap):
    """Blocks reach beyond the last column. Phantom columns there count exp(0), or exp(-cap) if the cap comes after their -inf."""
    logits, target = extreme(name, vocabulary), torch.tensor([vocabulary - 1, vocabulary - 2, 22])
    options = {"softcap": softcap, "returns": ("logsumexp", "argmax", "entropy")}
    truth = run(reference.cross_entropy, exactly({"logits": logits}), target, **options)
    plain = run(reference.cross_entropy, {"logits": logits}, target, **options)
    ours = run(cross_entropy, {"logits": logits}, target, **options)
    if name == "one is inf" and softcap is None:
        assert ours.result.loss.isnan() and truth.result.loss.isnan()
    else:
        assert_no_worse(ours, plain, truth, 2 * FP32, factor=2)


@uses_kernels
def test_the_cap_is_exact_for_small_and_large_logits():
    """Of one class, the logarithm of the sum is the logit; 1 - exp(-2 x) of a small x would have few digits left."""
    logits = torch.logspace(-4, 3, 15).unsqueeze(1) * torch.tensor([1.0, -1.0]).repeat(8)[:15, None]
    found = cross_entropy(logits, torch.zeros(15, dtype=torch.int64), softcap=30.0, returns=("logsumexp",)).logsumexp
    truth = 30 * torch.tanh(logits.double().squeeze(1) / 30)
    assert float(((found - truth) / truth).abs().max()) <= 4 * torch.finfo(torch.float32).eps


@uses_kernels
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_that_is_impossible_costs_infinitely_much(smoothing):
    logits, target = draw(3, 33, dtype=torch.float32).detach(), torch.tensor([5, 6, 7])
    logits[1, 6] = -torch.inf
    options = {"reduction": "none", "label_smoothing": smoothing}
    ours, theirs = (
        run(f, {"logits": logits.requires_grad_()}, target, **options) for f in (cross_entropy, reference.cross_entropy)
    )
    assert torch.equal(ours.result.loss.isinf(), torch.tensor([False, True, False]))
    assert torch.equal(ours.result.loss.isinf(), theirs.result.loss.isinf())
    assert ours.gradients["logits"].isfinite().all()
    assert distance(ours.gradients["logits"], theirs.gradients["logits"]) <= FP32


@uses_kernels
@pytest.mark.parametrize("ignored", [(), (0,), (8,), (0, 3, 4, 8), tuple(range(8)), tuple(range(1, 9))], ids=str)
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_ignored_rows_have_exactly_no_gradient(ignored, ignore_index):
    logits, target = draw(9, 13), classes(9, 13, ignored, ignore_index)
    options = {"ignore_index": ignore_index, "returns": ("correct", "argmax", "logsumexp", "entropy")}
    ours = run(cross_entropy, {"logits": logits}, target, **options)
    assert_equal(ours, run(reference.cross_entropy, {"logits": logits}, target, **options), FP64)
    assert not ours.gradients["logits"][target == ignore_index].any()


@uses_kernels
def test_what_stands_in_an_ignored_row_does_not_matter():
    logits, target = draw(5, 33, dtype=torch.float32).detach(), classes(5, 33, ignored=[1, 4])
    expected = run(cross_entropy, {"logits": logits.requires_grad_()}, target, returns=("logsumexp",))
    poisoned = logits.detach().clone()
    poisoned[1], poisoned[4] = torch.nan, torch.inf
    assert_equal(run(cross_entropy, {"logits": poisoned.requires_grad_()}, target, returns=("logsumexp",)), expected, 0)


@uses_kernels
@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"num_items": 3}, {"reduction": "none"}, {}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_all_ignored(options, dtype):
    """Zero with a graph; as a mean NaN, as PyTorch has it, but never in a gradient."""
    logits, target = draw(4, 13, dtype=dtype), torch.full((4,), -100)
    ours = run(cross_entropy, {"logits": logits}, target, **options, label_smoothing=0.1, z_loss=0.1)
    assert ours.gradients["logits"] is not None and not ours.gradients["logits"].any()
    assert ours.result.loss.isnan() if not options else not ours.result.loss.any()


@uses_kernels
@pytest.mark.parametrize("bad", [-1, -101, 13, 2**31, 2**32 + 1])
def test_a_target_outside_the_vocabulary_is_refused(bad, monkeypatch):
    logits, target = draw(4, 13, dtype=torch.float32), classes(4, 13, ignored=[0])
    target[2] = bad
    with pytest.raises(IndexError, match="outside the vocabulary of 13"):
        cross_entropy(logits, target)
    monkeypatch.setattr(targets, "check_range", lambda *_: None)  # as where a GPU's assertions are off
    ours = run(cross_entropy, {"logits": logits}, target, reduction="none")
    assert torch.equal(ours.result.loss.isfinite(), torch.tensor([True, True, False, True]))


@uses_kernels
@pytest.mark.parametrize("with_weight", [False, True])
def test_a_gradient_for_every_row(with_weight):
    """From above, all different or one number expanded; and the same as a token weight."""
    logits, target = draw(9, 17, dtype=torch.float32), classes(9, 17, ignored=[4])
    upstream, weight = draw(9, seed=1).detach().float(), draw(9, seed=2).detach().float() if with_weight else None
    options = {"reduction": "none", "token_weight": weight, "label_smoothing": 0.1, "z_loss": 0.01}
    truth = run(reference.cross_entropy, exactly({"logits": logits}), target, upstream, **options)
    assert_equal(run(cross_entropy, {"logits": logits}, target, upstream, **options), truth, FP32)
    total = upstream if weight is None else upstream * weight
    summed = run(cross_entropy, {"logits": logits}, target, **options | {"reduction": "sum", "token_weight": total})
    assert distance(summed.gradients["logits"], truth.gradients["logits"]) <= FP32
    expanded = run(cross_entropy, {"logits": logits}, target, torch.tensor(-2.0).expand(9), **options)
    repeated = run(cross_entropy, {"logits": logits}, target, torch.full((9,), -2.0), **options)
    assert_equal(expanded, repeated, 0)


@uses_kernels
def test_any_layout_gives_the_same():
    logits, target = draw(8, 17), classes(8, 17, ignored=[3])
    expected = run(cross_entropy, {"logits": logits}, target, returns=("argmax",))
    odd_place = torch.cat([target.new_zeros(1), target])[1:]  # 8 bytes into an allocation of a multiple of 16
    assert odd_place.data_ptr() % 16 == 8
    wide = torch.full((8, 40), torch.nan, dtype=torch.float64)
    for columns in (slice(0, 17), slice(5, 22), slice(0, 34, 2)):
        wide[:, columns] = logits.detach()
        leaf = wide.detach().clone()[:, columns].requires_grad_()
        assert_equal(run(cross_entropy, {"logits": leaf}, odd_place, returns=("argmax",)), expected, FP64)
    transposed = logits.detach().t().contiguous().t().requires_grad_()
    assert_equal(run(cross_entropy, {"logits": transposed}, target.int(), returns=("argmax",)), expected, FP64)
    batch = run(
        cross_entropy,
        {"logits": logits.detach().view(2, 4, 17).requires_grad_()},
        target.view(2, 4),
        returns=("argmax",),
    )
    assert batch.result.argmax.shape == (2, 4)
    assert torch.equal(batch.result.argmax.flatten(), expected.result.argmax)
    assert distance(batch.gradients["logits"].view(8, 17), expected.gradients["logits"]) <= FP64


@uses_kernels
def test_expanded_logits_and_targets():
    logits, target = draw(1, 17).detach(), classes(1, 17).expand(5)
    assert_equal(
        *(run(f, {"logits": logits.expand(5, 17)}, target) for f in (cross_entropy, reference.cross_entropy)), FP64
    )


@uses_kernels
@pytest.mark.parametrize("shape", [(0, 17), (1, 17), (5, 1), (2, 0, 17)], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_few_rows_and_classes(shape, reduction):
    logits, target = draw(*shape), torch.zeros(shape[:-1], dtype=torch.int64)
    options = {"reduction": reduction, "returns": ("correct",)}
    assert_equal(
        *(run(f, {"logits": logits}, target, **options) for f in (cross_entropy, reference.cross_entropy)), FP64
    )


@uses_kernels
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_shifted_targets(reduction):
    """The same as moving logits and targets by hand; token weights go with the targets."""
    logits, target = draw(2, 6, 17), classes(12, 17, ignored=[4, 7]).view(2, 6)
    weight = draw(2, 6, seed=3).detach().abs()
    ours = run(cross_entropy, {"logits": logits}, target, shift=2, token_weight=weight, reduction=reduction)
    by_hand = run(
        cross_entropy, {"logits": logits[:, :-2]}, target[:, 2:], token_weight=weight[:, 2:], reduction=reduction
    )
    kept = ours.result.loss if reduction == "mean" else ours.result.loss[:, :-2]
    assert distance(kept, by_hand.result.loss) <= FP64
    assert distance(ours.gradients["logits"][:, :-2], by_hand.gradients["logits"]) <= FP64
    assert not ours.gradients["logits"][:, -2:].any()


def test_rows_further_apart_than_2_to_31(triton_kernels):
    """Elements of row 2 start at 2^31: what fits 32 bits would be looked for as far below, where there are zeros here."""
    from launcher_kernels import rows_triton

    apart, columns = 2**30, 11
    memory = mmap.mmap(-1, 2 * (4 * apart + columns), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    near = draw(3, columns, dtype=torch.float16).detach()
    far = torch.frombuffer(memory, dtype=torch.float16).as_strided((3, columns), (apart, 1), 2 * apart)
    far.copy_(near)
    rows = prepare(classes(3, columns), Formula(columns), None, None, torch.float32)
    assert torch.equal(rows_triton.stats_and_gradient_(far, rows), rows_triton.stats_and_gradient_(near, rows))
    assert torch.equal(far, near) and near.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(4, dtype=torch.int64)}, "shapes do not fit"),
        ({"target": torch.zeros(5)}, "not class indices"),
        ({"reduction": "average"}, "none of none, mean, sum"),
        ({"returns": ("accuracy",)}, "accuracy is none of correct"),
        ({"reduction": "none", "num_items": 3}, "has none"),
        ({"num_items": 0}, "not above zero"),
        ({"token_weight": torch.ones(5, requires_grad=True)}, "token_weight gets no gradient"),
        ({"token_weight": torch.ones(1)}, "shapes do not fit: token_weight"),
        ({"class_weight": torch.ones(3)}, "shapes do not fit: class_weight"),
        ({"label_smoothing": 1.5}, "not between 0 and 1"),
        ({"z_loss": -0.1}, "z_loss -0.1 is below zero"),
        ({"softcap": 0.0}, "softcap 0.0 is not above zero"),
        ({"shift": -1}, "shift -1 is below zero"),
        ({"scale": torch.ones(())}, "scale gets no gradient"),
        ({"returns": "correct"}, "collection of names"),
        ({"num_items": 2.5}, "neither an int nor a tensor"),
        ({"num_items": torch.ones(5)}, "not one number"),
        ({"logits": torch.ones(5, 13, dtype=torch.int64)}, "not floating-point"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(**{"logits": draw(5, 13), "target": classes(5, 13)} | change)


def test_narrow_targets_mean_the_same(kernels):
    """Eight bits hold neither -100 nor, behind it, every class."""
    logits = draw(6, 200, dtype=torch.float32)
    target = torch.tensor([156, 3, 199, 155, 0, 156])
    wide = cross_entropy(logits, target, shift=1, reduction="sum").loss
    assert torch.equal(cross_entropy(logits, target.to(torch.uint8), shift=1, reduction="sum").loss, wide)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_comes_to_an_ignored_row_stays_there(inplace, kernels):
    """As in means of documents of which one has no target: 0 / 0, and a gradient from above that is not finite."""
    leaf = draw(2, 3, 13, dtype=torch.float32).detach().requires_grad_()
    target = classes(6, 13).view(2, 3).index_fill(0, torch.tensor(1), -100)
    rows = cross_entropy(leaf * 1, target, reduction="none", inplace=inplace).loss
    rows.backward(torch.tensor([[1.0, 2.0, 3.0], [torch.inf] * 3]))
    assert leaf.grad.isfinite().all() and leaf.grad[0].any() and not leaf.grad[1].any()


def test_forward_mode_is_refused_rather_than_zero():
    logits, target = draw(5, 13, dtype=torch.float32).detach(), classes(5, 13)
    with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        torch.func.jvp(lambda z: cross_entropy(z, target).loss, (logits,), (torch.ones_like(logits),))
