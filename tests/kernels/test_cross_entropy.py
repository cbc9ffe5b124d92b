"""The loss of given logits against the twin in fp64: every option, precision and result, and its gradient."""

import pytest
import torch
from cases import FP32, FP64, all_pairs, assert_equal, classes, distance, draw, exactly, in_fp32, in_ulps, run
from launcher_kernels import cross_entropy, reference
from launcher_kernels.output import EXTRAS

pytestmark = pytest.mark.usefixtures("kernels")
OPTIONS = all_pairs(
    label_smoothing=[0.0, 0.1, 0.9],
    z_loss=[0.0, 1e-4, 1e-2],
    softcap=[None, 1.0, 5.0, 30.0],
    scale=[1.0, 0.7],
    class_weight=[None, draw(37, seed=5).detach().abs()],
    ignore_index=[-100, 2],
    token_weight=[None, draw(6, seed=6).detach().abs()],
)
REDUCTIONS = [{"reduction": "mean"}, {"reduction": "sum"}, {"reduction": "none"}, {"num_items": 5}]


ONE_ROUNDING, TWO_ROUNDINGS = (
    0.51,
    1.51,
)  # in units of the last place, which halves where the first rounding steps over a power of 2


def truth_of(logits, target, upstream=1.0, **options):
    return run(reference.cross_entropy, exactly({"logits": logits}), target, upstream, **options)


def compare(logits, target, upstream=1.0, rounding=ONE_ROUNDING, **options):
    """With the twin in fp64. The gradient may have been rounded; the loss is at least fp32 and never rounded to less."""
    ours = run(cross_entropy, {"logits": logits}, target, upstream, **options)
    truth = truth_of(logits, target, upstream, **options)
    if logits.dtype.itemsize == 2:
        plain = run(reference.cross_entropy, in_fp32({"logits": logits}), target, upstream, **options)
        assert in_ulps(ours.gradients["logits"], truth.gradients["logits"], plain.gradients["logits"]) <= rounding
        ours.gradients.update(truth.gradients)
    assert_equal(ours, truth, FP64 if logits.dtype == torch.float64 else FP32)


@pytest.fixture
def blocks_for(kernels, monkeypatch):
    """Long rows in four loop iterations: the interpreter takes milliseconds for each."""

    def patch(columns: int) -> None:
        if kernels == "triton in a loop":
            from launcher_kernels import rows_triton

            monkeypatch.setattr(rows_triton, "LOOP_BLOCK", max(16, 2 ** (columns.bit_length() - 2)))

    return patch


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (4, 257), (8, 1000), (3, 4099)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_any_shape_and_precision(shape, dtype, blocks_for):
    blocks_for(shape[1])
    compare(draw(*shape, size=2.0, dtype=dtype), classes(*shape), reduction="sum", returns=EXTRAS)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_any_reduction(reduction, dtype):
    """A factor that is known later costs half precision a second rounding: one for every row, and 1 / N in fp16."""
    logits, target = draw(7, 13, dtype=dtype), classes(7, 13, ignored=[2])
    upstream = draw(7, seed=1).detach() if reduction.get("reduction") == "none" else 1.0
    is_late = reduction.get("reduction") == "none" or dtype == torch.float16
    compare(logits, target, upstream, TWO_ROUNDINGS if is_late else ONE_ROUNDING, **reduction)


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_two_options_together(options, dtype):
    logits = draw(6, 37, size=3.0, dtype=dtype)
    target = classes(6, 37, ignored=[0, 3], ignore_index=options["ignore_index"])
    compare(logits, target, **options, returns=EXTRAS)


@pytest.mark.parametrize("upstream", [0.0, -3.0, 1 / 7, 65536.0])
def test_the_gradient_from_above(upstream):
    logits, target = draw(5, 13, dtype=torch.float32), classes(5, 13)
    compare(logits, target, upstream)


def test_the_number_of_items_may_be_a_tensor():
    logits, target = draw(5, 13, dtype=torch.float32), classes(5, 13, ignored=[1])
    truth = truth_of(logits, target, num_items=7)
    assert_equal(run(cross_entropy, {"logits": logits}, target, num_items=torch.tensor(7)), truth, FP32)


@pytest.mark.parametrize("probability", [0.9, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_confident_predictions_keep_their_gradient(probability, smoothing, dtype):
    """p - 1 of a p that was rounded to bf16 is off by 17% at 0.99, and nothing is left of it at 0.999."""
    logits, target = draw(4, 70, size=0.1).detach(), classes(4, 70)
    odds = logits.scatter(1, target[:, None], -torch.inf).logsumexp(1) + torch.logit(torch.tensor(probability).double())
    logits = logits.scatter(1, target[:, None], odds[:, None]).to(dtype).requires_grad_()
    options = {"reduction": "sum", "label_smoothing": smoothing}
    truth, plain, ours = (
        outcome.gradients["logits"].gather(1, target[:, None]).double()
        for outcome in (
            truth_of(logits, target, **options),
            run(reference.cross_entropy, {"logits": logits}, target, **options),
            run(cross_entropy, {"logits": logits}, target, **options),
        )
    )
    error, allowed = (ours - truth).abs().max(), (plain - truth).abs().max()
    assert error <= allowed + FP32
    assert truth.abs().max() > 1e-5


def test_small_gradients_survive_in_fp16_until_the_loss_scale(blocks_for):
    """p / N is below everything fp16 has, p N^-1 65536 is not; so N must not be divided by before the rounding."""
    blocks_for(100_000)
    logits, target = draw(2, 100_000, size=0.5, dtype=torch.float16), classes(2, 100_000)
    options = {"upstream": 65536.0, "num_items": 16384}
    truth = truth_of(logits, target, **options).gradients["logits"]
    ours = run(cross_entropy, {"logits": logits}, target, **options).gradients["logits"].double()
    assert float(ours.clamp(min=0).sum()) == pytest.approx(float(truth.clamp(min=0).sum()), rel=1e-3)


def test_equal_logits_count_as_pytorch_counts_them():
    """Ties are common in bf16: the first of them is the arg-maximum, also where they lie in different blocks."""
    logits = torch.zeros(4, 50)
    logits[1, [20, 40]] = 1.0
    logits[2, [3, 4]] = -1.0
    target = torch.tensor([0, 20, 49, -100])
    found = cross_entropy(logits, target, returns=("argmax", "correct"))
    assert found.argmax.tolist() == [0, 20, 0, -1]
    assert int(found.correct) == 2


def test_results_are_made_on_demand_and_without_a_gradient():
    found = cross_entropy(draw(3, 5), classes(3, 5), returns=("entropy",))
    assert found.argmax is found.correct is found.logsumexp is found.z_loss is None
    assert found.loss.requires_grad and not found.entropy.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_makes_no_gradient(mode):
    logits, target = draw(5, 13), classes(5, 13)
    with mode():
        assert not cross_entropy(logits, target).loss.requires_grad
        assert not cross_entropy(logits, target, inplace=True).loss.requires_grad
    assert torch.equal(logits, draw(5, 13))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_in_place_gives_the_same_in_the_logits_memory(dtype):
    logits, target = draw(5, 13, dtype=dtype), classes(5, 13, ignored=[1])
    expected = run(cross_entropy, {"logits": logits}, target, upstream=0.5)
    seen = []
    computed = logits * 1
    computed.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    loss = cross_entropy(computed, target, inplace=True).loss
    loss.backward(torch.tensor(0.5))
    assert torch.equal(logits.grad, expected.gradients["logits"]) and torch.equal(loss, expected.result.loss)
    assert seen == [computed.data_ptr()]


def test_in_place_is_refused_where_it_would_be_wrong():
    leaf, target = draw(5, 13, dtype=torch.float32), classes(5, 13)
    with pytest.raises(ValueError, match="a leaf, or a view of one"):
        cross_entropy(leaf, target, inplace=True)
    for view in (leaf.view(1, 5, 13), leaf[1:4]):
        with pytest.raises(ValueError, match="a leaf, or a view of one"):
            cross_entropy(view, target[: view[..., 0].numel()].view(view.shape[:-1]), inplace=True)
    for overlapping in ((leaf[:1] * 1).expand(5, 13), (leaf.view(-1) * 1).unfold(0, 13, 3)[:5]):
        with pytest.raises(ValueError, match="memory of its own"):
            cross_entropy(overlapping, target, inplace=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(cross_entropy(leaf * 1, target, inplace=True).loss, leaf, create_graph=True)
    with pytest.raises(ValueError, match="contiguous"):
        cross_entropy((draw(2, 4, 13) * 1)[:, :2], target[:4].view(2, 2), inplace=True)
    kept = leaf.exp()  # needs its result for its own gradient
    loss = cross_entropy(kept, target, inplace=True).loss
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = cross_entropy(leaf * 1, target, inplace=True).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gone through once"):
        loss.backward()


def test_the_loss_may_be_used_twice_and_gone_through_twice():
    logits, target = draw(5, 13, dtype=torch.float32), classes(5, 13)
    loss, other = (cross_entropy(logits * factor, target).loss for factor in (1, 2))
    total = loss * 3 + loss.square() + other
    first, second = (torch.autograd.grad(total, logits, retain_graph=True)[0] for _ in range(2))
    loss, other = (reference.cross_entropy(logits * factor, target).loss for factor in (1, 2))
    assert torch.equal(first, second)
    assert distance(first, torch.autograd.grad(loss * 3 + loss.square() + other, logits)[0]) <= FP32


def test_second_derivatives_are_refused_rather_than_wrong():
    logits, target = draw(5, 13), classes(5, 13)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(cross_entropy(logits, target).loss, logits, create_graph=True)
