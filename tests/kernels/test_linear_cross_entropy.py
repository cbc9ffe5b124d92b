"""The chunked loss against the twin that holds all logits: values, gradients, memory, and the mistakes known from others."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launcher_kernels import linear_cross_entropy, reference
from torch import Tensor

kernel = importlib.import_module("launcher_kernels.linear_cross_entropy")  # the name in the package is the function
HIDDEN, VOCABULARY, ROWS_PER_CHUNK = 8, 29, 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 4 * VOCABULARY * ROWS_PER_CHUNK)


def make(num_rows: int, dtype: torch.dtype = torch.float64, ignored: tuple[int, ...] = (), size: float = 1.0):
    """x, weight, bias as leaves, and targets with these rows ignored."""
    draw = torch.Generator().manual_seed(num_rows)
    x, weight, bias = (
        (torch.randn(*shape, generator=draw, dtype=torch.float64) * size).to(dtype).requires_grad_()
        for shape in ((num_rows, HIDDEN), (VOCABULARY, HIDDEN), (VOCABULARY,))
    )
    target = torch.randint(VOCABULARY, (num_rows,), generator=draw)
    target[list(ignored)] = -100
    return x, weight, bias, target


def run(
    function, x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, upstream: float = 1.0, **options
):
    """Loss, hits, and the gradients of all leaves that ask for one (None for the others)."""
    leaves = [None if t is None else t.detach().requires_grad_(t.requires_grad) for t in (x, weight, bias)]
    loss, hits = function(leaves[0], leaves[1], target, bias=leaves[2], **options)
    if loss.requires_grad:
        (loss * upstream).backward()
    return loss.detach(), hits, [None if leaf is None else leaf.grad for leaf in leaves]


def assert_equal(ours, theirs, tolerance: float = 1e-12):
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=tolerance)
    assert int(ours[1]) == int(theirs[1])
    for mine, other in zip(ours[2], theirs[2], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            assert mine.dtype == other.dtype
            torch.testing.assert_close(
                mine, other, rtol=tolerance, atol=tolerance * max(1.0, float(other.abs().max() if other.numel() else 0))
            )


def distance(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("num_rows", [0, 1, 3, 4, 5, 8, 11])
def test_any_number_of_rows_equals_the_reference(num_rows):
    x, weight, _, target = make(num_rows)
    assert_equal(run(linear_cross_entropy, x, weight, target), run(reference.linear_cross_entropy, x, weight, target))


@pytest.mark.parametrize("softcap", [None, 1.0, 30.0])
@pytest.mark.parametrize("scale", [1.0, 0.0625, 3.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_options_equal_the_reference(softcap, scale, with_bias):
    x, weight, bias, target = make(11, ignored=(0, 6), size=2.0)
    case = (x, weight, target, bias if with_bias else None, 1.0)
    options = {"softcap": softcap, "scale": scale}
    assert_equal(run(linear_cross_entropy, *case, **options), run(reference.linear_cross_entropy, *case, **options))


def test_ignored_rows_have_exactly_no_gradient():
    x, weight, bias, target = make(11, ignored=(0, 3, 4, 5, 10))
    ours = run(linear_cross_entropy, x, weight, target, bias)
    assert_equal(ours, run(reference.linear_cross_entropy, x, weight, target, bias))
    assert not ours[2][0][target == -100].any()


def test_an_ignore_index_inside_the_vocabulary():
    x, weight, _, target = make(11)
    target[:4] = 7
    ours = run(linear_cross_entropy, x, weight, target, ignore_index=7)
    assert_equal(ours, run(reference.linear_cross_entropy, x, weight, target, ignore_index=7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_all_ignored_gives_zero_and_no_nan(dtype):
    x, weight, bias, target = make(6, dtype, ignored=tuple(range(6)))
    loss, hits, gradients = run(linear_cross_entropy, x, weight, target, bias)
    assert float(loss) == 0 and int(hits) == 0
    assert all(g is not None and not g.any() and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"scale": 0.3}, {"softcap": 5.0, "scale": 3.0}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_no_worse_than_plain_pytorch(dtype, options):
    """Both are measured against fp64 on the very same input values; both round, so a small factor is allowed."""
    x, weight, bias, target = make(64, dtype, ignored=(1, 2))
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    truth = run(reference.linear_cross_entropy, exact[0], exact[1], target, exact[2], **options)
    plain = run(reference.linear_cross_entropy, x, weight, target, bias, **options)
    ours = run(linear_cross_entropy, x, weight, target, bias, **options)
    slack = 4 * torch.finfo(torch.float32).eps
    one_rounding = torch.finfo(dtype).eps / 16  # the errors of a single sum may cancel by luck
    assert distance(ours[0], truth[0]) <= distance(plain[0], truth[0]) + one_rounding + slack
    for mine, other, exactly in zip(ours[2], plain[2], truth[2], strict=True):
        assert mine.dtype == dtype
        assert distance(mine, exactly) <= 1.5 * distance(other, exactly) + slack


def test_many_chunks_are_as_exact_as_one_in_bf16(monkeypatch):
    """A running sum of dweight in bf16 loses a factor of three over 64 chunks."""
    x, weight, _, target = make(64 * ROWS_PER_CHUNK, torch.bfloat16)
    exact = run(reference.linear_cross_entropy, x.detach().double(), weight.detach().double().requires_grad_(), target)
    many = run(linear_cross_entropy, x, weight, target)
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 2**20)
    one = run(linear_cross_entropy, x, weight, target)
    assert distance(many[2][1], exact[2][1]) <= 1.1 * distance(one[2][1], exact[2][1])


@pytest.mark.parametrize("upstream", [0.0, -3.0, 1 / 7, 65536.0])
def test_upstream_gradient_scales_all_gradients(upstream):
    x, weight, bias, target = make(11)
    case = (x, weight, target, bias, upstream)
    assert_equal(run(linear_cross_entropy, *case), run(reference.linear_cross_entropy, *case))


def test_the_loss_may_be_used_twice_and_gone_through_twice():
    x, weight, _, target = make(11)
    loss, _ = linear_cross_entropy(x, weight, target)
    other, _ = linear_cross_entropy(x * 2, weight, target)
    total = loss * 3 + loss.square() + other
    first = torch.autograd.grad(total, (x, weight), retain_graph=True)
    second = torch.autograd.grad(total, (x, weight))
    loss, _ = reference.linear_cross_entropy(x, weight, target)
    other, _ = reference.linear_cross_entropy(x * 2, weight, target)
    expected = torch.autograd.grad(loss * 3 + loss.square() + other, (x, weight))
    for a, b, c in zip(first, second, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-9)


def test_gradcheck():
    x, weight, bias, target = make(6, ignored=(2,))

    def loss(x, weight, bias):
        return linear_cross_entropy(x, weight, target, bias=bias, softcap=2.0, scale=0.7)[0]

    assert torch.autograd.gradcheck(loss, (x, weight, bias), fast_mode=True)


def test_second_derivatives_are_refused_rather_than_wrong():
    x, weight, _, target = make(6)
    (gradient,) = torch.autograd.grad(linear_cross_entropy(x, weight, target)[0].square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def _count_products(monkeypatch) -> dict[str, int]:
    seen = {"dx": 0, "dweight": 0}
    addmm, add_product = torch.addmm, kernel._add_product_

    def counted(first, *args, **options):
        seen["dx"] += first.shape[-1] == HIDDEN
        return addmm(first, *args, **options)

    def counted_weight(*args):
        seen["dweight"] += 1
        return add_product(*args)

    monkeypatch.setattr(torch, "addmm", counted)
    monkeypatch.setattr(kernel, "_add_product_", counted_weight)
    return seen


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_is_frozen_costs_no_product(frozen, monkeypatch):
    x, weight, bias, target = make(2 * ROWS_PER_CHUNK)
    {"x": x, "weight": weight, "bias": bias}[frozen].requires_grad_(False)
    expected = run(reference.linear_cross_entropy, x, weight, target, bias)
    seen = _count_products(monkeypatch)
    assert_equal(run(linear_cross_entropy, x, weight, target, bias), expected)
    assert seen == {"dx": 0 if frozen == "x" else 2, "dweight": 0 if frozen == "weight" else 2}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_makes_no_gradient(mode, monkeypatch):
    x, weight, bias, target = make(11)
    expected = reference.linear_cross_entropy(x, weight, target, bias=bias)
    seen = _count_products(monkeypatch)
    with mode():
        loss, hits = linear_cross_entropy(x, weight, target, bias=bias)
    assert seen == {"dx": 0, "dweight": 0} and not loss.requires_grad
    torch.testing.assert_close(loss, expected[0].detach())
    assert int(hits) == int(expected[1])


def test_any_layout_gives_the_same():
    x, weight, _, target = make(9)
    target = target[:1].expand(9)
    expected = run(reference.linear_cross_entropy, x, weight, target)
    strided_x = x.detach().t().contiguous().t().requires_grad_()
    strided_weight = torch.stack([weight.detach()] * 2, -1)[..., 0].requires_grad_()
    assert not strided_x.is_contiguous() and not strided_weight.is_contiguous()
    assert_equal(run(linear_cross_entropy, strided_x, strided_weight, target), expected)


def test_an_expanded_x():
    x, weight, _, target = make(9)
    repeated = x.detach()[:1].expand(9, HIDDEN)
    results = [f(repeated, weight, target)[0] for f in (linear_cross_entropy, reference.linear_cross_entropy)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("bad", [-1, -101, VOCABULARY, 2**31])
def test_a_target_outside_the_vocabulary_is_refused(bad):
    x, weight, _, target = make(6, ignored=(0,))
    target[3] = bad
    with pytest.raises(IndexError, match="outside the vocabulary of 29"):
        linear_cross_entropy(x, weight, target)


def test_shapes_that_do_not_fit_are_refused():
    x, weight, _, target = make(6)
    with pytest.raises(ValueError, match="shapes do not fit"):
        linear_cross_entropy(x, weight[:, :-1], target)
    with pytest.raises(ValueError, match="shapes do not fit"):
        linear_cross_entropy(x, weight, target[:-1])


@pytest.mark.parametrize("probability", [0.9, 0.999, 0.9999])
def test_confident_predictions_keep_their_gradient(probability):
    """Rounding p to bf16 before subtracting 1 loses all of it at p = 0.999."""
    odds = torch.tensor(probability / (1 - probability) * (VOCABULARY - 1)).log()
    x = torch.zeros(1, HIDDEN)
    x[0, 0] = 1.0
    weight = torch.zeros(VOCABULARY, HIDDEN)
    weight[5, 0] = odds
    x, weight, target = x.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_(), torch.tensor([5])
    truth = run(reference.linear_cross_entropy, x.detach().double(), weight.detach().double().requires_grad_(), target)
    ours = run(linear_cross_entropy, x, weight, target)
    torch.testing.assert_close(ours[2][1][5, 0].double(), truth[2][1][5, 0], rtol=2**-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_large_logits_do_not_overflow(dtype):
    x, weight, _, target = make(11, dtype, size=60.0)
    assert float((x @ weight.t()).detach().abs().max()) > 1e4
    ours, plain = (run(f, x, weight, target) for f in (linear_cross_entropy, reference.linear_cross_entropy))
    assert all(t.isfinite().all() for t in (ours[0], *ours[2][:2]))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours[0], plain[0], rtol=4 * torch.finfo(ours[0].dtype).eps, atol=0)
    for mine, other in zip(ours[2][:2], plain[2][:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=4 * eps, atol=4 * eps * float(other.abs().max()))


def test_ties_count_as_pytorch_counts_them():
    """Equal logits are common in bf16; a target that merely ties with an earlier class is no hit."""
    x, weight = torch.ones(2, HIDDEN), torch.ones(VOCABULARY, HIDDEN)
    target = torch.tensor([0, 3])
    assert int(linear_cross_entropy(x, weight, target)[1]) == 1


def test_autocast_does_not_reach_inside():
    x, weight, _, target = make(11, torch.float32)
    expected = run(linear_cross_entropy, x, weight, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(run(linear_cross_entropy, x, weight, target), expected, tolerance=0)


LIMITED = """
import resource, sys
import torch
from launcher_kernels import linear_cross_entropy, reference
torch.set_num_threads(1)
N, H, V = 4096, 16, 32768  # all logits: 512 MiB in fp32
x, weight = torch.randn(N, H, requires_grad=True), torch.randn(V, H, requires_grad=True)
target = torch.randint(V, (N,))
functions = {"chunked": linear_cross_entropy, "reference": reference.linear_cross_entropy}
for function in functions.values():  # libraries and threads take their memory now
    function(x[:1], weight, target[:1])[0].backward()
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 128 * 2**20,) * 2)
functions[sys.argv[1]](x, weight, target)[0].backward()
"""


@pytest.mark.parametrize(("name", "fits"), [("chunked", True), ("reference", False)])
def test_peak_memory_is_one_chunk(name, fits):
    """64 MiB of logits and as much for the rest are enough, where all logits are 512 MiB and do not fit."""
    paths = {"PYTHONPATH": str(Path(kernel.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", LIMITED, name], env=paths, capture_output=True, text=True)
    assert (result.returncode == 0) == fits, result.stderr
    assert fits or "memory" in result.stderr
